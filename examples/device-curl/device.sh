#!/usr/bin/env bash
# A device without a socket: says every so often that it is there, with what it has measured, and says goodbye when it is stopped.
# If it dies, or loses its network, it is gone when the time is over for which it last said that it is there.
#
#   ROLLCALL_URL        where Rollcall is                                       http://127.0.0.1:8080
#   ROLLCALL_API_KEY    a key that may write: rollcall key --name devices --scopes 'write(sensors:**)'
#                       (not needed in development mode)
#   DEVICE, CHANNEL     who is present, and where                               the host's name, sensors:hall
#   EVERY_S, TTL_S      how often it is said, and for how long it holds         20, 60 seconds
set -euo pipefail

url=${ROLLCALL_URL:-http://127.0.0.1:8080}
device=${DEVICE:-$(hostname)}
channel=${CHANNEL:-sensors:hall}
every=${EVERY_S:-20}
ttl=${TTL_S:-60}

die() {
    echo "device: $1" >&2
    exit 2
}

command -v curl >/dev/null || die "curl is missing"
[[ $every =~ ^[1-9][0-9]*$ && $ttl =~ ^[1-9][0-9]*$ ]] || die "EVERY_S and TTL_S are whole seconds"
((every * 2 < ttl)) || die "TTL_S must be more than twice EVERY_S, so that one lost word is no leave"

# Percent-encodes a name for a path, byte by byte.
encode() {
    local LC_ALL=C text=$1 letter place
    for ((place = 0; place < ${#text}; place++)); do
        letter=${text:place:1}
        case $letter in
        [A-Za-z0-9._~-]) printf '%s' "$letter" ;;
        *) printf '%%%02X' "'$letter" ;;
        esac
    done
}

# What the others see of the device: any JSON object. Put your sensors here.
measure() { printf '{"uptime_s":%d}' "$SECONDS"; }

member="$url/v1/channels/$(encode "$channel")/members/$(encode "$device")"

# Asks Rollcall, prints what it said, and puts the status into `status`: 000 where nobody answered. The key goes in by standard input, for
# arguments can be seen by everybody on the machine.
said=$(mktemp)
request() {
    status=$(
        printf 'header = "Authorization: Bearer %s"\n' "${ROLLCALL_API_KEY:-}" |
            curl --config - --silent --max-time 10 --output "$said" --write-out '%{http_code}' "$@" "$member"
    ) || status=000
}

goodbye() {
    trap - EXIT
    [[ -z ${waiting:-} ]] || kill "$waiting" 2>/dev/null || true
    request --request DELETE
    [[ $status == 204 ]] || echo "device: the goodbye was not heard ($status): it is gone within $ttl s" >&2
    rm -f "$said"
}
trap goodbye EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# In the background, for a signal would wait for the end of a sleep in the foreground.
pause() {
    sleep "$1" &
    waiting=$!
    wait "$waiting" || true
    waiting=
}

failures=0
while true; do
    request --request PUT --header 'Content-Type: application/json' --data "{\"state\":$(measure),\"ttl_ms\":$((ttl * 1000))}"
    case $status in
    2??)
        ((failures == 0)) || echo "device: heard again"
        failures=0
        pause "$every"
        ;;
    408 | 409 | 429 | 5?? | 000)
        # Away, busy, full or starting. A random wait below a bound that doubles, up to the time between two words: many devices that lost
        # one server must not come back at once.
        ((failures < 10)) && failures=$((failures + 1))
        bound=$((2 ** (failures - 1)))
        ((bound <= every)) || bound=$every
        echo "device: not heard ($status), again within $bound s" >&2
        pause "$((RANDOM % bound)).$((RANDOM % 10))"
        ;;
    *)
        # The same words would be refused again, and so would a goodbye.
        cat "$said" >&2
        trap - EXIT
        rm -f "$said"
        die "refused with $status"
        ;;
    esac
done
