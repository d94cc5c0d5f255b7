import { useConnectionState, usePresence, useTyping } from "@rollcall/client/react";

import { Avatars, calledBy } from "./Avatars.jsx";

export function Document({ id, user }) {
  const channel = `document:${id}`;
  const { onlineUsers, userCount, isLoading, error } = usePresence(channel, { state: { name: nameOf(user) } });
  const { sentence, start, stop } = useTyping(channel, { name: (who, member) => calledBy(who, member?.state) });
  const { state } = useConnectionState();
  return (
    <main>
      <header>
        <div>
          <h1>Quarterly plan</h1>
          <p className="muted" role="status">{error ? error.message : isLoading ? "Looking who is here…" : count(userCount)}</p>
        </div>
        <Avatars members={onlineUsers} count={userCount} self={user} />
      </header>
      <label htmlFor="text">Notes</label>
      <textarea id="text" rows={7} placeholder="Write something: the others see that you do." onInput={start} onBlur={stop} />
      <p className="typing" aria-live="polite">{sentence}</p>
      <footer>
        <span className={`connection ${state}`}>{state === "open" ? "Connected" : "Connecting…"}</span>
        <a href={`?${new URLSearchParams({ document: id })}`} target="_blank" rel="noreferrer">Open it as somebody else</a>
      </footer>
    </main>
  );
}

/** `Ann-123` is called Ann. */
const nameOf = (user) => user.replace(/-\d+$/, "");

const count = (users) => (users === 1 ? "Only you are here" : `${users} people are here`);
