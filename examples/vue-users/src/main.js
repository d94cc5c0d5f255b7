import { createRollcall } from "@rollcall/client/vue";
import { createApp } from "vue";

import App from "./App.vue";
import "./style.css";

const user = new URLSearchParams(location.search).get("user") || "ann";

// In development mode Rollcall signs tokens for everybody. An application asks its own server, which knows who is logged in.
async function token() {
  const answer = await fetch(`/dev/token?${new URLSearchParams({ user })}`);
  if (!answer.ok) throw new Error("is Rollcall running in development mode?");
  return (await answer.json()).token;
}

createApp(App, { user }).use(createRollcall({ token })).mount("#app");
