import type { Socket, SocketClass } from "../../sdk/src/socket.js";

/** Which way a frame went, seen from this page. */
export type Direction = "in" | "out";

/**
 * The network of one device: its sockets show every frame that passes, and all of them can be cut as a cable is, without a goodbye. The
 * client notices that its socket is gone and tries to come back; its tries succeed when the cable is in place again.
 */
export class Network {
  /** For the client's option of that name. */
  readonly WebSocket: SocketClass;
  #isCut = false;
  #wires = new Set<Wire>();

  constructor(passes: (direction: Direction, text: string) => void) {
    const wires = this.#wires;
    const isCut = () => this.#isCut;
    this.WebSocket = class extends Wire {
      constructor(url: string, protocol: string) {
        super(url, protocol, passes, wires);
        if (!isCut()) this.connect();
      }
    };
  }

  get isCut(): boolean {
    return this.#isCut;
  }

  cut(): void {
    this.#isCut = true;
    for (const wire of [...this.#wires]) wire.break();
  }

  mend(): void {
    this.#isCut = false;
    for (const wire of this.#wires) wire.connect();
  }
}

/** A WebSocket that waits for its network. */
class Wire implements Socket {
  onopen: Socket["onopen"] = null;
  onmessage: Socket["onmessage"] = null;
  onclose: Socket["onclose"] = null;
  onerror: Socket["onerror"] = null;
  #socket: WebSocket | undefined;

  constructor(
    private readonly url: string,
    private readonly protocol: string,
    private readonly passes: (direction: Direction, text: string) => void,
    private readonly wires: Set<Wire>,
  ) {
    wires.add(this);
  }

  connect(): void {
    if (this.#socket) return;
    const socket = new WebSocket(this.url, this.protocol);
    this.#socket = socket;
    socket.onopen = (event) => this.onopen?.(event);
    socket.onmessage = ({ data }) => {
      this.passes("in", String(data));
      this.onmessage?.({ data });
    };
    socket.onclose = ({ code, reason }) => {
      this.wires.delete(this);
      this.onclose?.({ code, reason });
    };
  }

  send(text: string): void {
    this.passes("out", text);
    this.#socket?.send(text);
  }

  close(code?: number, reason?: string): void {
    if (this.#socket) this.#socket.close(code, reason);
    else this.wires.delete(this);
  }

  /** The cable is pulled: this side hears of it at once, the server of an end without a goodbye. */
  break(): void {
    const socket = this.#socket;
    // One that waits for the network goes on waiting.
    if (!socket) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close(4000);
    this.wires.delete(this);
    this.onclose?.({ code: 1006, reason: "the network is gone" });
  }
}
