import vue from "@vitejs/plugin-vue";
import { defineConfig } from "vite";

const rollcall = process.env.ROLLCALL ?? "http://127.0.0.1:8080";

export default defineConfig({
  plugins: [vue()],
  server: {
    // The page and Rollcall have one origin, as behind a proxy of your own.
    proxy: { "/v1": { target: rollcall, ws: true }, "/dev": rollcall },
    // This and `dedupe` only because the client is a folder of the same repository; with one out of npm they can go.
    fs: { allow: [".", "../../sdk"] },
  },
  resolve: { dedupe: ["vue"] },
});
