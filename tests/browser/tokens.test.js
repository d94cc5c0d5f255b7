// docs/tokens.md: its code makes tokens, which a server takes; its mistakes are refused for the reasons that it gives.

import assert from "node:assert/strict";
import { createHmac, randomBytes } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, afterEach, before, test } from "node:test";
import { pathToFileURL } from "node:url";

import { Rollcall, RollcallError } from "../../sdk/dist/index.js";
import { eventually } from "./harness.js";
import { blocksOf } from "./manual.js";
import { ROLLCALL, ROOT, output, startServer } from "./program.js";

const LIMIT = { timeout: 60_000 };
const BLOCKS = blocksOf("docs/tokens.md");
const SECRET = randomBytes(32).toString("base64url");

let folder;
let rollcall;
let key;
let clients = [];

before(async () => {
  folder = mkdtempSync(join(tmpdir(), "rollcall-tokens-"));
  symlinkSync(`${ROOT}examples/server-node/node_modules`, join(folder, "node_modules"));
  for (const { file, code } of BLOCKS) if (file) writeFileSync(join(folder, file), code);
  const [made, setting] = (await output(ROLLCALL, ["key", "--name", "app", "--scopes", "admin"])).trim().split("\n");
  key = made;
  await sh(block("sh", "genpkey").code.replace("export", "#"));
  rollcall = await startServer(ROLLCALL, ["serve"], {
    ROLLCALL__SERVER__LISTEN: "127.0.0.1:0",
    ROLLCALL__AUTH__HS256_SECRET: SECRET,
    ROLLCALL__AUTH__PUBLIC_KEYS: join(folder, "public.pem"),
    ROLLCALL__AUTH__API_KEYS: setting.replace("ROLLCALL__AUTH__API_KEYS=", ""),
  });
}, LIMIT);

after(async () => {
  await rollcall?.stop();
  rmSync(folder, { recursive: true });
}, LIMIT);

afterEach(() => clients.splice(0).forEach((client) => client.close()));

function block(language, word) {
  const found = BLOCKS.find((one) => one.language === language && one.code.includes(word));
  assert.ok(found, `docs/tokens.md has a block of ${language} with ${word}`);
  return found;
}

const sh = (script, more = {}) => output("bash", ["-euc", script], { ROLLCALL__AUTH__HS256_SECRET: SECRET, ...more }, { cwd: folder });

function bring(token) {
  const client = new Rollcall({ url: rollcall.address, token: () => token });
  clients.push(client);
  return client;
}

/** Joins what the token allows, and is refused what it does not. */
async function holds(token, info) {
  const client = bring(token);
  const room = client.join("room:1");
  await room.ready;
  assert.deepEqual([client.welcome.user, room.members.get("ann").info], ["ann", info]);
  await assert.rejects(client.join("other:1").ready, { code: "forbidden", message: /can\.join/ });
}

/** A token of any claims, by the server's secret unless it is said otherwise. */
function sign(claims, { secret = SECRET, alg = "HS256" } = {}) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const signed = `${part({ alg, typ: "JWT" })}.${part(claims)}`;
  return `${signed}.${createHmac("sha256", secret).update(signed).digest("base64url")}`;
}

const now = () => Math.floor(Date.now() / 1000);

test("what Node signs is taken, with a secret and with a key pair", LIMIT, async () => {
  process.env.ROLLCALL_HS256_SECRET = SECRET;
  const { tokenFor } = await import(pathToFileURL(join(folder, "token.mjs")));
  await holds(await tokenFor({ id: "ann", name: "Ann" }), { name: "Ann" });
  // The file is read where the program runs.
  const script = `import("./signed.mjs").then(async ({ tokenFor }) => console.log(await tokenFor("ann", { join: ["room:*"], watch: ["room:*"] })))`;
  await holds((await output(process.execPath, ["-e", script], {}, { cwd: folder })).trim(), undefined);
});

test("what Python signs is taken", LIMIT, async () => {
  const script = `${block("python", "token_for").code}\nprint(token_for({"id": "ann", "name": "Ann"}))`;
  await holds((await output(`${ROOT}.venv/bin/python`, ["-c", script], { ROLLCALL_HS256_SECRET: SECRET })).trim(), { name: "Ann" });
});

test("what the command line prints is taken", LIMIT, async () => {
  const command = block("sh", "rollcall token").code.replace("rollcall ", `${ROLLCALL} `);
  await holds((await sh(command)).trim(), undefined);
});

test("the claims that are shown first are of the right form", LIMIT, async () => {
  const claims = { ...JSON.parse(block("json", "sub").code), iat: now(), exp: now() + 600 };
  const client = bring(sign(claims));
  const room = client.join("room:1");
  await room.ready;
  room.typing();
  await room.send("hello");
  await client.setStatus(null);
  await client.users.get(["ben"]);
  assert.deepEqual(room.members.get("ann").info, claims.info);
});

test("patterns mean what the table says", LIMIT, async () => {
  const rows = readFileSync(`${ROOT}docs/tokens.md`, "utf8").split("| pattern | means")[1].split("\n\n")[0].split("\n").slice(2);
  const names = (cell) => [...cell.matchAll(/`([^`]+)`/g)].map(([, name]) => name);
  assert.ok(rows.length >= 5);
  for (const row of rows) {
    const [, pattern, means, not] = row.split("|");
    const client = bring(sign({ exp: now() + 60, can: { watch: names(pattern) } }));
    for (const name of names(means)) await client.channel(name).ready;
    for (const name of names(not)) await assert.rejects(client.channel(name).ready, { code: "forbidden" }, `${pattern} ${name}`);
  }
});

test("a namespace says for all tokens what those may do that say nothing", LIMIT, async () => {
  writeFileSync(join(folder, "rollcall.toml"), block("toml", "namespace").code);
  const other = await startServer(ROLLCALL, ["serve", "--config", join(folder, "rollcall.toml")], {
    ROLLCALL__SERVER__LISTEN: "127.0.0.1:0",
    ROLLCALL__AUTH__HS256_SECRET: SECRET,
  });
  const client = new Rollcall({ url: other.address, token: () => sign({ sub: "ann", exp: now() + 60 }) });
  try {
    await client.join("room:1").ready;
    await assert.rejects(client.join("other:1").ready, { code: "forbidden" });
  } finally {
    client.close();
    await other.stop();
  }
});

test("the function that gets tokens ends the client where nobody is logged in, and tries again where something failed", LIMIT, async () => {
  const code = block("js", "nobody is logged in").code.replace("https://presence.example", rollcall.address);
  const statuses = [500, 200];
  const answers = (status) => ({ status, ok: status === 200, text: async () => sign({ sub: "ann", exp: now() + 60 }) });
  const make = new Function("Rollcall", "RollcallError", "fetch", `${code}\nreturn client;`);
  const first = make(Rollcall, RollcallError, async () => answers(statuses.shift()));
  clients.push(first);
  await eventually("it came at the second attempt", () => first.state, "open");
  const second = make(Rollcall, RollcallError, async () => answers(401));
  clients.push(second);
  await eventually("it has ended", () => second.state, "ended");
  assert.match(second.error.message, /nobody is logged in/);
});

test("revoked tokens are out, by user and by id", LIMIT, async () => {
  const can = { join: ["**"] };
  const ann = bring(sign({ sub: "ann", iat: now() - 1, exp: now() + 600, can }));
  const ben = bring(sign({ sub: "ben", jti: "7c1f0a", iat: now() - 1, exp: now() + 600, can }));
  for (const client of [ann, ben]) await client.join("room:1", { watch: false }).ready;
  await sh(block("sh", "revocations").code.replaceAll("curl ", "curl --silent --show-error --fail "), { rollcall: rollcall.address, key });
  for (const client of [ann, ben]) {
    await eventually("it has ended", () => client.state, "ended");
    assert.equal(client.error.code, "unauthorized");
  }
});

test("mistakes are logged as the table says", LIMIT, async () => {
  const good = { sub: "ann", iat: now(), exp: now() + 60 };
  const strict = await startServer(ROLLCALL, ["serve"], {
    ROLLCALL__SERVER__LISTEN: "127.0.0.1:0",
    ROLLCALL__AUTH__HS256_SECRET: SECRET,
    ROLLCALL__AUTH__AUDIENCE: "presence",
  });
  const faulty = [
    sign(good, { secret: "another secret, of which nobody knows" }),
    sign(good, { alg: "RS256" }),
    sign(good, { alg: "HS512" }),
    sign({ ...good, aud: "presence", exp: now() - 60 }),
    sign({ sub: "ann", aud: "presence" }),
    sign({ ...good, aud: "presence", nbf: now() + 60 }),
    sign({ ...good, aud: "presence", can: { join: ["room*"] } }),
    sign({ ...good, aud: "presence", sub: "ann smith" }),
    sign({ ...good, aud: "else" }),
  ];
  const table = readFileSync(`${ROOT}docs/tokens.md`, "utf8").split("| in the log |")[1].split("\n\n")[0].split("\n").slice(2);
  try {
    assert.equal(table.length, faulty.length);
    for (const [place, token] of faulty.entries()) {
      const [, why] = /^\| `(.*?)` \|/.exec(table[place]);
      const client = new Rollcall({ url: strict.address, token: () => token });
      clients.push(client);
      const isLogged = () => {
        // No more than a few refusals in a second are logged: where it was one too many, the token is shown again.
        if (client.state === "ended") client.connect();
        // Names of claims stand in quotes there, which the manual leaves out.
        return strict.said.replaceAll("`", "").includes(`"why":"${why}"`);
      };
      await eventually(why, isLogged, true);
      client.close();
    }
  } finally {
    await strict.stop();
  }
});
