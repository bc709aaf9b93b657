"use strict";
// The table of all utterances: filtered and sorted as lists of numbers, drawn a page at a time. Nothing here fetches
// anything, and texts of the data become text nodes alone. Without a script the rest of the page says what it says.
(() => {
  const PAGE = 50; // utterances drawn at a time, however many there are
  const HALLUCINATED = 1, CUT = 2;
  const data = JSON.parse(document.getElementById("data").textContent);
  const find = (id) => document.getElementById(id);
  const errors = (u) => u.sub + u.ins + u.del;
  const utterances = data.rows.map((row, place) => {
    const [id, speaker, seconds, words, sub, ins, del, flags, slices, chunks, before, beforeChunks] = row;
    const u = { place, id, speaker, seconds, words, sub, ins, del, flags, slices, chunks, before, beforeChunks };
    u.wer = errors(u) / Math.max(words, 1);
    u.change = data.compared ? errors(u) - before : 0;
    return u;
  });
  const number = (value) => value.toLocaleString("en");
  const percent = (share) => `${(100 * share).toFixed(2)} %`;
  const signed = (value) => (value > 0 ? "+" : value < 0 ? "−" : "") + Math.abs(value);
  const count = (value, noun) => `${number(value)} ${noun}${value === 1 ? "" : "s"}`;
  const make = (tag, className, text) => {
    const one = document.createElement(tag);
    if (className) one.className = className;
    if (text !== undefined) one.textContent = text;
    return one;
  };

  // --- columns -------------------------------------------------------------------------------------------------
  const named = (key) => (one, other) => (one[key] < other[key] ? -1 : one[key] > other[key] ? 1 : 0);
  const columns = [
    { key: "id", title: "Utterance", text: (u) => u.id, isText: true },
    { key: "wer", title: "WER", text: (u) => percent(u.wer) },
    { key: "before", title: "Baseline errors", text: (u) => u.before, absent: !data.compared },
    { key: "change", title: "Change", text: (u) => signed(u.change), absent: !data.compared },
    { key: "sub", title: "Subst.", text: (u) => u.sub },
    { key: "ins", title: "Ins.", text: (u) => u.ins },
    { key: "del", title: "Del.", text: (u) => u.del },
    { key: "words", title: "Words", text: (u) => number(u.words) },
    { key: "seconds", title: "Seconds", text: (u) => u.seconds.toFixed(2) },
    { key: "speaker", title: "Speaker", text: (u) => u.speaker, isText: true, absent: !utterances.some((u) => u.speaker) },
    { key: "place", title: "Row", text: (u) => number(u.place + 1) },
  ].filter((column) => !column.absent);
  const kinds = [
    ["all", () => true],
    ["with errors", (u) => errors(u) > 0],
    ["with substitutions", (u) => u.sub > 0],
    ["with insertions", (u) => u.ins > 0],
    ["with deletions", (u) => u.del > 0],
    ["without errors", (u) => errors(u) === 0],
    ["hallucinated", (u) => u.flags & HALLUCINATED],
    ["cut at the token limit", (u) => u.flags & CUT],
  ];
  if (data.compared) {
    kinds.push(["better than the baseline", (u) => u.change < 0], ["worse than the baseline", (u) => u.change > 0]);
  }

  // --- what is shown -------------------------------------------------------------------------------------------
  const state = { key: "wer", down: true, page: 0 };
  let shown = [];
  const side = (chunks, which) => chunks.map((one) => (typeof one === "string" ? one : one[which])).filter(Boolean).join(" ");
  const haystack = (u) =>
    (u.haystack ??= [u.id, u.speaker, side(u.chunks, 0), side(u.chunks, 1), side(u.beforeChunks || [], 1)]
      .join("\n")
      .toLowerCase());

  function select() {
    const words = find("search").value.trim().toLowerCase();
    const [, wanted] = kinds[find("which").selectedIndex];
    const [column, value] = find("slice").value.split(" ").map(Number);
    shown = utterances.filter(
      (u) =>
        wanted(u) && (!find("slice").value || u.slices[column] === value) && (!words || haystack(u).includes(words)),
    );
    sort();
  }

  function sort() {
    const by = named(state.key);
    // The other way round, of equal ones the first stays first.
    shown.sort(state.down ? (one, other) => by(other, one) || one.place - other.place : by);
    state.page = 0;
    draw();
  }

  function draw() {
    const first = state.page * PAGE;
    const page = shown.slice(first, first + PAGE);
    find("rows").replaceChildren(...page.flatMap(rows));
    for (const head of find("heads").children) {
      if (head.dataset.key === state.key) head.setAttribute("aria-sort", state.down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    }
    const pages = Math.max(1, Math.ceil(shown.length / PAGE));
    find("where").textContent = `Page ${number(state.page + 1)} of ${number(pages)}`;
    find("previous").disabled = state.page === 0;
    find("next").disabled = state.page + 1 >= pages;
    find("count").textContent = page.length
      ? `${number(shown.length)} of ${count(utterances.length, "utterance")}, ${number(first + 1)} to ${number(first + page.length)} shown`
      : `None of ${count(utterances.length, "utterance")}`;
  }

  function rows(u) {
    const facts = make("tr", "facts-of");
    for (const column of columns) {
      const short = column.isText && column.text(u).length <= 24 ? "short" : "";
      const cell = make(column.key === "id" ? "th" : "td", column.isText ? short : "number");
      if (column.key === "id") cell.scope = "row";
      cell.append(column.isText ? make("bdi", "", column.text(u)) : column.text(u));
      facts.append(cell);
    }
    const text = make("tr", "text-of");
    const cell = make("td");
    cell.colSpan = columns.length;
    cell.append(aligned(u.chunks));
    if (data.compared && u.beforeChunks) cell.append(aligned(u.beforeChunks, "Baseline"));
    else if (data.compared) cell.append(make("div", "flag before-words", "Baseline: the same words"));
    const flags = [u.flags & HALLUCINATED && "hallucinated", u.flags & CUT && "cut at the token limit"].filter(Boolean);
    if (flags.length) cell.append(make("div", "flag", flags.join(", ")));
    text.append(cell);
    return [facts, text];
  }

  // --- alignments, as page.html writes those of the worst -------------------------------------------------------
  function hidden(text) {
    const one = make("span", "said", text);
    one.dir = "ltr"; // no part of the text, whose first letter decides which way it runs
    return one;
  }

  function aligned(chunks, label) {
    const block = make("div", label ? "words before-words" : "words");
    block.dir = "auto";
    block.lang = "";
    if (label) {
      const name = make("span", "flag", `${label}: `);
      name.dir = "ltr";
      block.append(name);
    }
    if (!chunks.length) {
      const none = make("span", "none", "no words on either side");
      none.dir = "ltr";
      block.append(none);
    }
    chunks.forEach((one, place) => {
      if (place) block.append(" ");
      if (typeof one === "string") {
        block.append(one);
        return;
      }
      const [reference, hypothesis] = one;
      const out = make("del"), into = make("ins");
      if (reference && hypothesis) {
        const pair = make("span", "pair");
        out.append(reference);
        into.append(hypothesis);
        pair.append(hidden("for "), out, hidden(" it wrote "), into, hidden(";"));
        block.append(pair);
      } else if (reference) {
        out.append(hidden("left out: "), reference, hidden(";"));
        block.append(out);
      } else {
        into.append(hidden("put in: "), hypothesis, hidden(";"));
        block.append(into);
      }
    });
    return block;
  }

  // --- controls ------------------------------------------------------------------------------------------------
  for (const { key, title, isText } of columns) {
    const head = make("th", isText ? "" : "number"), button = make("button", "", title);
    head.scope = "col";
    head.dataset.key = key;
    button.type = "button";
    button.addEventListener("click", () => {
      state.down = state.key === key ? !state.down : !(isText || key === "place");
      state.key = key;
      sort();
    });
    head.append(button);
    find("heads").append(head);
  }
  for (const [name, wanted] of kinds) {
    find("which").append(make("option", "", `${name} (${number(utterances.filter(wanted).length)})`));
  }
  data.slices.forEach(([column, values], place) => {
    const group = make("optgroup");
    group.label = column;
    values.forEach((value, which) => {
      const option = make("option", "", value);
      option.value = `${place} ${which}`;
      group.append(option);
    });
    find("slice").append(group);
  });
  find("search").addEventListener("input", select);
  find("which").addEventListener("change", select);
  find("slice").addEventListener("change", select);
  find("search").form.addEventListener("submit", (event) => event.preventDefault());
  const turn = (pages) => {
    state.page += pages;
    draw();
    find("table").scrollIntoView();
  };
  find("previous").addEventListener("click", () => turn(-1));
  find("next").addEventListener("click", () => turn(1));
  select();
  find("explorer").hidden = false;

  // --- a line that goes over a picture as its sound is played ----------------------------------------------------
  for (const audio of document.querySelectorAll("audio")) {
    const head = audio.closest("figure").querySelector(".head");
    const follow = () => {
      head.hidden = audio.ended || !audio.currentTime;
      head.style.left = `${(100 * audio.currentTime) / audio.duration}%`;
      if (!audio.paused) requestAnimationFrame(follow);
    };
    for (const event of ["play", "seeked", "ended"]) audio.addEventListener(event, follow);
  }
})();
