import { RollcallError } from "./errors.js";

// What handlers get differs from library to library in more than is used here, and types of handlers admit no less.
type Handler<Event> = ((this: any, event: Event & any) => void) | null;

/** What is used of a WebSocket. */
export interface Socket {
  onopen: Handler<unknown>;
  onmessage: Handler<{ data: unknown }>;
  onclose: Handler<{ code: number; reason: string }>;
  onerror: Handler<unknown>;
  send(text: string): void;
  close(code?: number, reason?: string): void;
}

/** A constructor such as the browser's `WebSocket` or that of the package `ws`. */
export type SocketClass = new (url: string, protocol: string) => Socket;

/** The environment's WebSocket, or that of the package `ws`, which Node 20 needs: it has none of its own. */
export async function findSocketClass(): Promise<SocketClass> {
  const own = (globalThis as { WebSocket?: unknown }).WebSocket;
  if (own) return own as SocketClass;
  try {
    return await load("ws");
  } catch {
    throw new RollcallError("no_socket", "there is no WebSocket here: install the package `ws`, or give the option `WebSocket`");
  }
}

// By a name that is not known beforehand, so that nothing that bundles for browsers looks for the package.
async function load(name: string): Promise<SocketClass> {
  return ((await import(/* @vite-ignore */ /* webpackIgnore: true */ name)) as { WebSocket: SocketClass }).WebSocket;
}
