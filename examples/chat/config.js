// What depends on where this page stands: where Rollcall is, and who says who somebody is. This is for a Rollcall in development mode on
// this machine, which gives a token to whoever asks. The app servers in ../server-node and ../server-python answer with a file of their own instead.

export const url = "http://127.0.0.1:8080";

/** Lets somebody in by name. The answer is a function that gets a token whenever the client wants one. */
export async function login(name) {
  const user = name.trim().replace(/[\s*]+/g, "_"); // names of users have no spaces
  const token = async () => {
    const answer = await fetch(`${url}/dev/token?user=${encodeURIComponent(user)}`);
    const body = await answer.json();
    if (!answer.ok) throw new Error(body.detail);
    return body.token;
  };
  await token(); // a name that is none is refused here, where it can still be changed
  return token;
}
