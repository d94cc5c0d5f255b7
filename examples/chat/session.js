// What the page asks of its own server, which knows who is logged in: ../server-node and ../server-python are two of the kind.

/** Logs in. The answer says where Rollcall is, and has a function that gets a token whenever the client wants one. */
export async function login(name) {
  const { session, rollcall } = await post("login", { name });
  return { url: rollcall, token: async () => (await post("token", {}, session)).token };
}

async function post(path, body, session) {
  const headers = { "content-type": "application/json", ...(session && { authorization: `Bearer ${session}` }) };
  const answer = await fetch(path, { method: "POST", headers, body: JSON.stringify(body) });
  const said = await answer.json();
  if (!answer.ok) throw Object.assign(new Error(said.error), { status: answer.status });
  return said;
}
