import { byId, write } from "./dom.js";
import { Problem, segment, type Rest } from "./rest.js";
import { clip, count } from "./words.js";

/** Putting somebody out, of one channel or of everything, after asking whether it is meant. */
export class Kick {
  #rest: Rest;
  #done: (words: string) => void;
  #user = "";
  #channel: string | undefined;
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
    write(byId("kick-title"), `Kick ${clip(user)}?`);
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
    const [user, channel, isEverywhere] = [this.#user, this.#channel, this.#isEverywhere];
    submit.disabled = true;
    try {
      const { connections } = await (isEverywhere || channel === undefined ? this.#disconnect(user) : this.#takeOut(user, channel));
      this.#dialog.close();
      const where = isEverywhere ? "everywhere" : clip(channel ?? "");
      this.#done(`${clip(user)} was put out of ${where}: ${count(connections, "connection", "connections")}.`);
    } catch (error) {
      write(byId("kick-problem"), `Not done: ${(error as Problem).message}.`);
    } finally {
      submit.disabled = false;
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
