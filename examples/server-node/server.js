// An app server beside Rollcall. It knows who its users are, gives each a token that says so, and asks Rollcall who is online.
// It serves the chat of ../chat as well.

import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";

import { SignJWT } from "jose";

const settings = readSettings(process.env, process.argv.includes("--dev"));
const TOKEN_LIFE = "10 minutes"; // the client asks for another one before the end

// Sessions of a toy: whoever gives a name is let in under it. Yours have passwords, and end some time.
const sessions = new Map();

/** A token: who the user is, what others see of the user, and what the user may do. Only this server can make one. */
async function tokenFor({ user, name }) {
  // Rollcall in development mode gives tokens to whoever asks. They allow everything, and say nothing of the name.
  if (settings.isDevelopment) return (await rollcall(`/dev/token?user=${encodeURIComponent(user)}`)).token;
  const can = { join: ["chat:*"], watch: ["chat:*"], typing: ["chat:*"], send: ["chat:*"], status: true };
  return new SignJWT({ info: { name }, can })
    .setProtectedHeader({ alg: "HS256" })
    .setSubject(user)
    .setIssuedAt()
    .setExpirationTime(TOKEN_LIFE)
    .sign(settings.secret);
}

/** Asks Rollcall, with this server's API key, which never leaves it. */
async function rollcall(path, body) {
  const answer = await fetch(new URL(path, settings.url), {
    method: body ? "POST" : "GET",
    headers: {
      ...(settings.apiKey && { authorization: `Bearer ${settings.apiKey}` }),
      ...(body && { "content-type": "application/json" }),
    },
    body: body && JSON.stringify(body),
    signal: AbortSignal.timeout(10_000),
  }).catch(() => {
    throw new Refusal(502, "Rollcall does not answer.");
  });
  const said = await answer.json();
  if (!answer.ok) throw new Refusal(502, `Rollcall answered ${answer.status}: ${said.detail}`);
  return said;
}

const routes = {
  "POST /login": async ({ body }) => {
    const { name } = await body();
    if (typeof name !== "string" || !/^(?!\.{1,2}$)[^\p{C}*]{1,40}$/u.test(name.trim())) {
      throw new Refusal(400, "A name has 1 to 40 characters, and no `*` among them.");
    }
    const user = name.trim().replace(/\s+/gu, "_"); // names of users have no spaces
    const session = randomUUID();
    sessions.set(session, { user, name: name.trim() });
    return { session, user, rollcall: settings.publicUrl };
  },

  "POST /token": async ({ session }) => ({ token: await tokenFor(session()) }),

  // Which of these users are online: /online?users=ann,ben
  "GET /online": async ({ session, url }) => {
    session();
    const users = url.searchParams.get("users")?.split(",").filter(Boolean) ?? [];
    return (await rollcall("/v1/users/query", { users })).users;
  },

  // Who is in a room: /members?room=lobby
  "GET /members": async ({ session, url }) => {
    session();
    const channel = encodeURIComponent(`chat:${url.searchParams.get("room")}`);
    const { members } = await rollcall(`/v1/channels/${channel}/members`);
    return members.map(({ user, status, info }) => ({ user, status, name: info?.name }));
  },
};

// The page. Only what stands here is served.
const files = {
  "/": chatFile("index.html", "text/html"),
  "/chat.js": chatFile("chat.js", "text/javascript"),
  "/session.js": chatFile("session.js", "text/javascript"),
  "/chat.css": chatFile("chat.css", "text/css"),
};

function chatFile(name, type) {
  return { type: `${type}; charset=utf-8`, bytes: readFileSync(new URL(`../chat/${name}`, import.meta.url)) };
}

/** What is wrong with a request, for whoever made it. */
class Refusal extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function answer(request) {
  const url = new URL(request.url, "http://app");
  if (request.method === "GET" && Object.hasOwn(files, url.pathname)) return files[url.pathname];
  const route = `${request.method} ${url.pathname}`;
  if (!Object.hasOwn(routes, route)) throw new Refusal(404, "There is nothing here.");
  const session = () => {
    const [, id] = /^Bearer (\S+)$/.exec(request.headers.authorization ?? "") ?? [];
    const found = sessions.get(id);
    if (!found) throw new Refusal(401, "Log in first.");
    return found;
  };
  return { type: "application/json", bytes: JSON.stringify(await routes[route]({ url, session, body: () => readBody(request) })) };
}

async function readBody(request) {
  let text = "";
  request.setEncoding("utf8"); // a letter may come in two pieces
  for await (const piece of request) {
    text += piece;
    if (text.length > 10_000) throw new Refusal(413, "That is too long.");
  }
  try {
    return Object(JSON.parse(text));
  } catch {
    throw new Refusal(400, "The body is not JSON.");
  }
}

/** The settings, all from the environment; or a sentence about each that is missing. With `--dev` there is nothing that has to be set. */
function readSettings(environment, isDevelopment) {
  const missing = [];
  const want = (name, why) => environment[name] || (isDevelopment || missing.push(`${name}: ${why}`), "");
  const url = want("ROLLCALL_URL", "where Rollcall is, such as http://127.0.0.1:8080") || "http://127.0.0.1:8080";
  const apiKey = want("ROLLCALL_API_KEY", "a key that `rollcall key --name app --scopes read` has printed");
  const secret = environment.ROLLCALL_HS256_SECRET_FILE
    ? readFileSync(environment.ROLLCALL_HS256_SECRET_FILE, "utf8").trim()
    : want("ROLLCALL_HS256_SECRET", "the secret that Rollcall has as auth.hs256_secret; or ROLLCALL_HS256_SECRET_FILE, a file that holds it");
  if (missing.length > 0) {
    const lines = missing.map((line) => `  ${line}\n`).join("");
    console.error(`Missing in the environment:\n${lines}With a Rollcall in development mode none of them is needed: start this with --dev.`);
    process.exit(2);
  }
  return {
    isDevelopment,
    url,
    apiKey,
    secret: new TextEncoder().encode(secret),
    publicUrl: environment.ROLLCALL_PUBLIC_URL || url, // where browsers find it, if that is elsewhere
    port: Number(environment.PORT || 3000),
  };
}

const server = createServer(async (request, response) => {
  try {
    const { type, bytes } = await answer(request);
    response.writeHead(200, { "content-type": type, "cache-control": "no-store", "x-content-type-options": "nosniff" }).end(bytes);
  } catch (error) {
    const isTheirs = error instanceof Refusal;
    if (!isTheirs) console.error(error);
    const said = { error: isTheirs ? error.message : "Something went wrong here." };
    response.writeHead(isTheirs ? error.status : 500, { "content-type": "application/json", connection: "close" }).end(JSON.stringify(said));
  }
});
server.listen(settings.port, "127.0.0.1", () => console.log(`listening on http://127.0.0.1:${server.address().port}`));
