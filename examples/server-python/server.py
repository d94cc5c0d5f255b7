"""An app server beside Rollcall. It knows who its users are, gives each a token that says so, and asks Rollcall who is online.
It serves the chat of ../chat as well."""

import json
import os
import re
import sys
import time
import unicodedata
import urllib.error
import urllib.parse
import urllib.request
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import jwt

TOKEN_LIFE_S = 600  # the client asks for another one before the end

# Sessions of a toy: whoever gives a name is let in under it. Yours have passwords, and end some time.
sessions = {}


class Refusal(Exception):
    """What is wrong with a request, for whoever made it."""

    def __init__(self, status, message):
        super().__init__(message)
        self.status = status


def token_for(session):
    """A token: who the user is, what others see of the user, and what the user may do. Only this server can make one."""
    if settings["is_development"]:
        # Rollcall in development mode gives tokens to whoever asks. They allow everything, and say nothing of the name.
        return rollcall(f"/dev/token?user={urllib.parse.quote(session['user'], safe='')}")["token"]
    now = int(time.time())
    rooms = ["chat:*"]
    claims = {
        "sub": session["user"],
        "iat": now,
        "exp": now + TOKEN_LIFE_S,
        "info": {"name": session["name"]},
        "can": {"join": rooms, "watch": rooms, "typing": rooms, "send": rooms, "status": True},
    }
    return jwt.encode(claims, settings["secret"], algorithm="HS256")


def rollcall(path, body=None):
    """Asks Rollcall, with this server's API key, which never leaves it."""
    request = urllib.request.Request(urllib.parse.urljoin(settings["url"], path))
    if settings["api_key"]:
        request.add_header("Authorization", f"Bearer {settings['api_key']}")
    if body is not None:
        request.add_header("Content-Type", "application/json")
        request.data = json.dumps(body).encode()
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise Refusal(502, f"Rollcall answered {error.code}: {json.load(error).get('detail')}") from error
    except OSError as error:
        raise Refusal(502, "Rollcall does not answer.") from error


def log_in(request):
    name = request.body().get("name")
    name = name.strip() if isinstance(name, str) else ""
    if not 1 <= len(name) <= 40 or name in (".", "..") or "*" in name or any(unicodedata.category(letter).startswith("C") for letter in name):
        raise Refusal(400, "A name has 1 to 40 characters, and no `*` among them.")
    session = str(uuid.uuid4())
    user = re.sub(r"\s+", "_", name)  # names of users have no spaces
    sessions[session] = {"user": user, "name": name}
    return {"session": session, "user": user, "rollcall": settings["public_url"]}


def issue_token(request):
    return {"token": token_for(request.session())}


def online(request):
    """Which of these users are online: /online?users=ann,ben"""
    request.session()
    users = [user for user in request.asked("users").split(",") if user]
    return rollcall("/v1/users/query", {"users": users})["users"]


def members(request):
    """Who is in a room: /members?room=lobby"""
    request.session()
    channel = urllib.parse.quote(f"chat:{request.asked('room')}", safe="")
    found = rollcall(f"/v1/channels/{channel}/members")["members"]
    return [{"user": one["user"], "status": one["status"], "name": one.get("info", {}).get("name")} for one in found]


ROUTES = {
    ("POST", "/login"): log_in,
    ("POST", "/token"): issue_token,
    ("GET", "/online"): online,
    ("GET", "/members"): members,
}

CHAT = Path(__file__).resolve().parent.parent / "chat"

# The page. Only what stands here is served.
FILES = {
    "/": ("text/html; charset=utf-8", (CHAT / "index.html").read_bytes()),
    "/chat.js": ("text/javascript; charset=utf-8", (CHAT / "chat.js").read_bytes()),
    "/session.js": ("text/javascript; charset=utf-8", (CHAT / "session.js").read_bytes()),
    "/chat.css": ("text/css; charset=utf-8", (CHAT / "chat.css").read_bytes()),
}


class Request(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30

    def session(self):
        scheme, _, session = self.headers.get("Authorization", "").partition(" ")
        if scheme != "Bearer" or session not in sessions:
            raise Refusal(401, "Log in first.")
        return sessions[session]

    def asked(self, name):
        query = urllib.parse.urlsplit(self.path).query
        return urllib.parse.parse_qs(query).get(name, [""])[0]

    def body(self):
        try:
            body = json.loads(self.content)
        except ValueError as error:
            raise Refusal(400, "The body is not JSON.") from error
        return body if isinstance(body, dict) else {}

    def read_content(self):
        """Always read, or what is left of it would be taken for the next request."""
        length = self.headers.get("Content-Length", "0")
        if not length.isdecimal() or int(length) > 10_000:
            raise Refusal(413, "The body must say its length, of at most 10,000 bytes.")
        self.content = self.rfile.read(int(length))

    def handle_one(self):
        path = urllib.parse.urlsplit(self.path).path
        try:
            self.read_content()
            if self.command == "GET" and path in FILES:
                return self.answer(200, *FILES[path])
            route = ROUTES.get((self.command, path))
            if route is None:
                raise Refusal(404, "There is nothing here.")
            self.answer(200, "application/json", json.dumps(route(self)).encode())
        except Refusal as refusal:
            self.close_connection = True  # something may not have been read
            self.answer(refusal.status, "application/json", json.dumps({"error": str(refusal)}).encode())

    do_GET = do_POST = handle_one

    def answer(self, status, kind, content):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        """Requests are not logged here; errors of this server still show."""


def read_settings(environment, is_development):
    """The settings, all from the environment; or a sentence about each that is missing. With `--dev` nothing has to be set."""
    missing = []

    def want(name, why):
        if not environment.get(name) and not is_development:
            missing.append(f"  {name}: {why}")
        return environment.get(name, "")

    url = want("ROLLCALL_URL", "where Rollcall is, such as http://127.0.0.1:8080") or "http://127.0.0.1:8080"
    api_key = want("ROLLCALL_API_KEY", "a key that `rollcall key --name app --scopes read` has printed")
    if environment.get("ROLLCALL_HS256_SECRET_FILE"):
        secret = Path(environment["ROLLCALL_HS256_SECRET_FILE"]).read_text().strip()
    else:
        secret = want(
            "ROLLCALL_HS256_SECRET",
            "the secret that Rollcall has as auth.hs256_secret; or ROLLCALL_HS256_SECRET_FILE, a file that holds it",
        )
    if missing:
        print("Missing in the environment:", *missing, sep="\n", file=sys.stderr)
        print("With a Rollcall in development mode none of them is needed: start this with --dev.", file=sys.stderr)
        sys.exit(2)
    return {
        "is_development": is_development,
        "url": url,
        "api_key": api_key,
        "secret": secret,
        "public_url": environment.get("ROLLCALL_PUBLIC_URL") or url,  # where browsers find it, if that is elsewhere
        "port": int(environment.get("PORT") or 3000),
    }


if __name__ == "__main__":
    settings = read_settings(os.environ, "--dev" in sys.argv)
    server = ThreadingHTTPServer(("127.0.0.1", settings["port"]), Request)
    print(f"listening on http://127.0.0.1:{server.server_port}", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
