const MOST = 4;
const KNOWN = ["online", "idle", "away", "busy"];

/** Who is here: oneself first, then who came first; those who find no room are counted. */
export function Avatars({ members, count, self }) {
  const ordered = [...members].sort((left, right) => Number(right.user === self) - Number(left.user === self));
  const shown = ordered.slice(0, count > MOST + 1 ? MOST : MOST + 1);
  const hidden = Math.max(count, members.length) - shown.length;
  return (
    <ul className="avatars" aria-label="Who is here">
      {shown.map(({ user, state, status }, at) => {
        const name = calledBy(user, state);
        // A later server may know more of them, which count as online.
        const how = KNOWN.includes(status) ? status : "online";
        const label = `${name}${user === self ? " (you)" : ""}, ${how}`;
        return (
          <li key={user} title={label} style={{ "--hue": hueOf(user), zIndex: MOST + 1 - at }}>
            <span className="visually-hidden">{label}</span>
            <span aria-hidden="true">{[...name][0]?.toUpperCase()}</span>
            <i className={`dot ${how}`} aria-hidden="true" />
          </li>
        );
      })}
      {hidden > 0 && (
        <li className="more" title={`${hidden} more`}>
          +{hidden}
        </li>
      )}
    </ul>
  );
}

/** What somebody is called. Strangers choose their state, and its shape too. */
export function calledBy(user, state) {
  return typeof state?.name === "string" ? state.name : user;
}

/** The same colour for a user everywhere. */
function hueOf(user) {
  let hue = 0;
  for (const letter of user) hue = (hue * 31 + letter.codePointAt(0)) % 360;
  return hue;
}
