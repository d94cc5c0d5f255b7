import uPlot from "uplot";

import { part } from "./dom.js";

/** How far back a chart looks, seconds, and how far at least: at first there is little to show. */
const SPAN_S = 300;
const FIRST_S = 60;
const HEIGHT = 96;

/**
 * Numbers over the last minutes. The lines have the colours of the figure's elements with the class `line`, so that they follow the colours
 * of the page; what they show stands in words beside them, for those who do not see them.
 */
export class Chart {
  #plot: uPlot;
  #place: HTMLElement;
  #names: readonly string[];
  #unit: string;
  #data: (number | null)[][];

  /** `unit` follows the numbers when they are read out. */
  constructor(figure: HTMLElement, names: readonly string[], unit: string) {
    this.#place = part(figure, ".plot");
    this.#names = names;
    this.#unit = unit;
    this.#data = [[], ...names.map(() => [])];
    const colours = [...figure.querySelectorAll<HTMLElement>(".line")];
    const at = part(figure, ".at");
    const quiet = () => getComputedStyle(at).color;
    this.#plot = new uPlot(
      {
        width: this.#place.clientWidth || 240,
        height: HEIGHT,
        padding: [6, 2, 8, 0],
        legend: { show: false },
        cursor: { y: false, drag: { x: false, y: false }, points: { size: 6 } },
        scales: { x: { time: false, range: () => this.#span() }, y: { range: (_, __, most) => [0, Math.max(1, most ?? 0) * 1.15] } },
        axes: [
          { show: false },
          {
            size: 34,
            gap: 4,
            space: 26,
            stroke: quiet,
            font: "11px system-ui, sans-serif",
            ticks: { show: false },
            grid: { stroke: () => fade(quiet(), 0.18), width: 1 },
            border: { show: false },
            values: (_, splits) => splits.map(short),
          },
        ],
        series: [
          {},
          ...names.map((label, index) => ({
            label,
            stroke: () => colour(colours[index]),
            fill: () => fade(colour(colours[index]), 0.12),
            width: 1.75,
            points: { show: false },
          })),
        ],
        hooks: { setCursor: [(plot) => (at.textContent = this.#under(plot.cursor.idx))] },
      },
      this.#data as uPlot.AlignedData,
      this.#place,
    );
    // What is drawn is a picture to whoever cannot see it; its words are on the place itself.
    this.#plot.root.setAttribute("aria-hidden", "true");
    new ResizeObserver(() => this.#plot.setSize({ width: this.#place.clientWidth, height: HEIGHT })).observe(this.#place);
    this.#describe();
  }

  /** One moment more: a number for each line, null where there is none, which leaves a gap. */
  push(values: readonly (number | null)[]): void {
    const [times, ...lines] = this.#data as [number[], ...(number | null)[][]];
    times.push(now());
    lines.forEach((line, index) => line.push(values[index] ?? null));
    while ((times[0] ?? 0) < now() - SPAN_S - 10) for (const line of this.#data) line.shift();
    this.#plot.setData(this.#data as uPlot.AlignedData);
    this.#describe();
  }

  /** The colours of the page are others. */
  redraw(): void {
    this.#plot.redraw();
  }

  /** As much of the last minutes as is known. */
  #span(): [number, number] {
    const first = (this.#data[0]?.[0] ?? 0) as number;
    return [Math.max(now() - SPAN_S, Math.min(first, now() - FIRST_S)), now()];
  }

  #under(index: number | null | undefined): string {
    const time = index === null || index === undefined ? undefined : this.#data[0]?.[index];
    if (time === undefined || time === null) return "";
    const ago = Math.round(now() - time);
    const values = this.#data.slice(1).map((line) => round(line[index as number] ?? null));
    return `${values.join(" · ")}, ${ago} s ago`;
  }

  #describe(): void {
    const words = this.#names.map((name, index) => {
      const known = (this.#data[index + 1] ?? []).filter((value) => value !== null);
      const last = this.#data[index + 1]?.at(-1) ?? null;
      if (known.length === 0) return `${name}: nothing known yet`;
      return `${name}: ${round(last)}${this.#unit} now, from ${round(Math.min(...known))} to ${round(Math.max(...known))} in the last five minutes`;
    });
    this.#place.setAttribute("aria-label", words.join(". "));
  }
}

/** Seconds of a clock that does not jump. */
function now(): number {
  return performance.now() / 1000;
}

/** A number in words, rates with what matters of them. */
export function round(value: number | null): string {
  if (value === null) return "–";
  return value.toLocaleString("en", { maximumFractionDigits: value > 0 && value < 10 ? 1 : 0 });
}

function short(value: number): string {
  return value.toLocaleString("en", { notation: "compact", maximumFractionDigits: 1 });
}

function colour(element: HTMLElement | undefined): string {
  return element ? getComputedStyle(element).color : "currentColor";
}

/** `rgb(…)`, as computed styles have it, made fainter. */
function fade(rgb: string, alpha: number): string {
  return rgb.replace(/^rgb\(/, "rgba(").replace(/\)$/, `, ${alpha})`);
}
