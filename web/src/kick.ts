import { byId, write } from "./dom.js";
import { Problem, segment, type Rest } from "./rest.js";
import { clip, count } from "./words.js";

/** Putting somebody out, of one channel or of everything, after asking whether it is meant. */
export class Kick {
  #rest: Rest;
  #done: (words: string) => void;
  #user = "";
  #channel: string | undefined;
  // What was asked before, and answered late, has no say in the dialog of somebody else.
  #turn = 0;
  #dialog = byId<HTMLDialogElement>("kick");

  /** `done` is told what has happened, in words. */
  constructor(rest: Rest, done: (words: string) => void) {
    this.#rest = rest;
    this.#done = done;
    byId("kick-cancel").addEventListener("click", () => this.#dialog.close());
    byId("kick-choice").addEventListener("change", () => this.#draw());
    byId("kick-form").addEventListener("submit", (event) => {
      event.preventDefault();
      void this.#carryOut();
    });
  }

  /** Opens the dialog. Without a channel it can only be everything. */
  ask(user: string, channel?: string): void {
    this.#user = user;
    this.#channel = channel;
    this.#turn += 1;
    byId<HTMLButtonElement>("kick-submit").disabled = false;
    // The whole name, for another one may begin like it.
    write(byId("kick-title"), `Kick ${user}?`);
    byId("kick-channel-row").hidden = channel === undefined;
    write(byId("kick-channel-words"), `Out of ${clip(channel ?? "")}: may join again`);
    byId<HTMLInputElement>(channel === undefined ? "kick-everywhere" : "kick-channel").checked = true;
    byId<HTMLSelectElement>("kick-ban").value = "0";
    byId<HTMLInputElement>("kick-reason").value = "";
    write(byId("kick-problem"), "");
    this.#draw();
    this.#dialog.showModal();
  }

  get #isEverywhere(): boolean {
    return byId<HTMLInputElement>("kick-everywhere").checked;
  }

  #draw(): void {
    byId("kick-more").hidden = !this.#isEverywhere;
  }

  async #carryOut(): Promise<void> {
    const submit = byId<HTMLButtonElement>("kick-submit");
    const [user, channel, isEverywhere, turn] = [this.#user, this.#channel, this.#isEverywhere, this.#turn];
    const isAsked = () => turn === this.#turn && this.#dialog.open;
    submit.disabled = true;
    try {
      const { connections } = await (isEverywhere || channel === undefined ? this.#disconnect(user) : this.#takeOut(user, channel));
      if (isAsked()) this.#dialog.close();
      const where = isEverywhere ? "everywhere" : clip(channel ?? "");
      // An app server that has placed somebody in a channel takes them out by the same way.
      if (connections === 0 && !isEverywhere) this.#done(`${clip(user)} has no connection in ${where}: nobody was put out.`);
      else this.#done(`${clip(user)} was put out of ${where}: ${count(connections, "connection", "connections")}.`);
    } catch (error) {
      const { message } = error as Problem;
      if (isAsked()) write(byId("kick-problem"), `Not done: ${message}.`);
      else this.#done(`${clip(user)} was not put out: ${message}.`);
    } finally {
      if (turn === this.#turn) submit.disabled = false;
    }
  }

  #takeOut(user: string, channel: string): Promise<{ connections: number }> {
    return this.#rest.delete(`v1/users/${segment(user)}/channels/${segment(channel)}`);
  }

  #disconnect(user: string): Promise<{ connections: number }> {
    const reason = byId<HTMLInputElement>("kick-reason").value.trim();
    const ban_ms = Number(byId<HTMLSelectElement>("kick-ban").value);
    return this.#rest.post(`v1/users/${segment(user)}/disconnect`, { reason, ban_ms });
  }
}
