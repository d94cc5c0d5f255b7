import { RollcallProvider } from "@rollcall/client/react";
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";

import { Document } from "./Document.jsx";
import "./style.css";

const NAMES = ["Ann", "Ben", "Kim", "Lou", "Mia", "Noa", "Sam", "Zoe"];

// Whoever comes without a name gets one, and keeps it over a reload.
const query = new URLSearchParams(location.search);
if (!query.get("user")) {
  query.set("user", `${NAMES[Math.floor(Math.random() * NAMES.length)]}-${Math.floor(Math.random() * 1000)}`);
  history.replaceState(null, "", `?${query}`);
}
const user = query.get("user");

// In development mode Rollcall signs tokens for everybody. An application asks its own server, which knows who is logged in.
async function token() {
  const answer = await fetch(`/dev/token?${new URLSearchParams({ user })}`);
  if (!answer.ok) throw new Error("is Rollcall running in development mode?");
  return (await answer.json()).token;
}

createRoot(document.getElementById("root")).render(
  <StrictMode>
    <RollcallProvider token={token}>
      <Document id={query.get("document") ?? "1"} user={user} />
    </RollcallProvider>
  </StrictMode>,
);
