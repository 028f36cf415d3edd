// SPDX-License-Identifier: Apache-2.0
'use strict';
const $ = (id) => document.getElementById(id);
const LAYER_HEIGHT = 10;
let asking = null;  // what stops the question at hand

function node(name, text, attributes = {}) {
  const made = document.createElement(name);
  if (text) made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

async function call(path, options = {}) {
  const key = $('key').value;
  const reply = await fetch(path, {...options, headers: key ? {Authorization: `Bearer ${key}`} : {}});
  if (reply.ok) return reply;
  const body = await reply.json().catch(() => ({}));
  throw new Error(body.error ? body.error.message : `the server answered ${reply.status}`);
}

function say(where, text, isError = false) {
  where.textContent = text;
  where.classList.toggle('error', isError);
}

async function showCollections(wanted) {
  const chosen = wanted || $('collection').value;
  try {
    const {data} = await (await call('v1/collections')).json();
    $('collection').replaceChildren(...data.map(({name}) => node('option', name, {value: name})));
    if (data.some(({name}) => name === chosen)) $('collection').value = chosen;
    await showFacts();
  } catch (error) {
    say($('collection-facts'), error.message, true);
  }
}

async function showFacts() {
  const name = $('collection').value;
  if (!name) return say($('collection-facts'), 'The store is empty: add documents.');
  if (!$('target').value) $('target').value = name;
  try {
    const facts = await (await call(`v1/collections/${encodeURIComponent(name)}`)).json();
    say($('collection-facts'), `${facts.documents} documents, ${facts.tokens} tokens`);
  } catch (error) {
    say($('collection-facts'), error.message, true);
  }
}

// ---- documents

function formatOf(name) {
  if (/\.(md|markdown)$/i.test(name)) return 'markdown';
  return /\.html?$/i.test(name) ? 'html' : 'text';
}

async function upload(event) {
  event.preventDefault();
  const target = $('target').value;
  const bar = $('upload-progress');
  $('verdicts').replaceChildren();
  try {
    const documents = [];
    for (const file of $('files').files) {
      documents.push({name: file.name, text: await file.text(), format: formatOf(file.name)});
    }
    say($('upload-status'), 'sending');
    const path = `v1/collections/${encodeURIComponent(target)}/documents`;
    let job = await (await call(path, {method: 'POST', body: JSON.stringify({documents})})).json();
    bar.hidden = false;
    while (job.state === 'queued' || job.state === 'running') {
      bar.max = job.progress.documents;
      bar.value = job.progress.done;
      say($('upload-status'), `${job.state}: ${job.progress.done} of ${job.progress.documents}`);
      await new Promise((resolve) => setTimeout(resolve, 300));
      job = await (await call(`v1/jobs/${job.id}`)).json();
    }
    bar.hidden = true;
    say($('upload-status'), `${job.state}: ${job.documents.length} documents`, job.state === 'failed');
    $('verdicts').replaceChildren(
        ...job.documents.map((d) => node('li', `${d.name}: ${d.outcome}${d.error ? ` (${d.error})` : ''}`)));
    await showCollections(target);
  } catch (error) {
    bar.hidden = true;
    say($('upload-status'), error.message, true);
  }
}

// ---- questions

// Server-sent events of a reply, as JSON, until [DONE].
async function* eventsOf(reply) {
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = '';
  for (;;) {
    const {value, done} = await reader.read();
    if (done) return;
    text += value;
    let end;
    while ((end = text.indexOf('\n\n')) >= 0) {
      const line = text.slice(0, end);
      text = text.slice(end + 2);
      if (line === 'data: [DONE]') return;
      if (line.startsWith('data: ')) yield JSON.parse(line.slice(6));
    }
  }
}

async function ask(event) {
  if (event) event.preventDefault();
  if (asking || !$('question').value.trim()) return;
  asking = new AbortController();
  $('send').disabled = true;
  $('stop').disabled = false;
  for (const id of ['answer', 'sources', 'strips']) $(id).replaceChildren();
  say($('ask-status'), 'reading');
  const body = {
    model: `unfold:${$('collection').value}`,
    stream: true,
    messages: [{role: 'user', content: $('question').value}],
    unfold: {explain: true},
  };
  try {
    const reply = await call('v1/chat/completions', {method: 'POST', body: JSON.stringify(body), signal: asking.signal});
    for await (const chunk of eventsOf(reply)) {
      if (chunk.error) throw new Error(chunk.error.message);
      const [choice] = chunk.choices;
      if (choice && choice.delta.content) $('answer').append(choice.delta.content);
      if (chunk.unfold) showExtras(chunk.unfold);
    }
  } catch (error) {
    const stopped = error.name === 'AbortError';
    say($('ask-status'), stopped ? 'stopped' : error.message, !stopped);
  } finally {
    asking = null;
    $('send').disabled = false;
    $('stop').disabled = true;
  }
}

function showExtras(extras) {
  const {timings, usage, unfolded_share: share} = extras;
  say($('ask-status'),
      `first token after ${timings.ttft_ms.toFixed(0)} ms; ${(100 * share).toFixed(1)} % of ${usage.context_chunks} chunks unfolded`);
  $('sources').replaceChildren(...extras.sources.map((source) => {
    const item = node('li', `${source.document}, bytes ${source.byte_begin}–${source.byte_end}, ${(100 * source.share).toFixed(1)} %`);
    item.append(node('blockquote', source.snippet));
    return item;
  }));
  showStrips(extras.unfolded || [], extras.placed);
}

// How many heads of each layer unfolded each chunk, by document.
function countHeads(unfolded) {
  const documents = new Map();
  const heads = new Map();
  for (const {layer, kv_head: head, chunks} of unfolded) {
    heads.set(layer, Math.max(heads.get(layer) || 0, head + 1));
    for (const chunk of chunks) {
      if (!documents.has(chunk.document)) documents.set(chunk.document, new Map());
      const cells = documents.get(chunk.document);
      const place = `${layer} ${chunk.byte_begin}`;
      if (!cells.has(place)) cells.set(place, {layer, begin: chunk.byte_begin, end: chunk.byte_end, count: 0});
      cells.get(place).count += 1;
    }
  }
  return {documents, heads};
}

function showStrips(unfolded, placed) {
  const {documents, heads} = countHeads(unfolded);
  const layers = [...heads.keys()].sort((a, b) => a - b);
  const figures = placed.filter((name) => documents.has(name)).map((name) => {
    const cells = [...documents.get(name).values()];
    const begin = Math.min(...cells.map((cell) => cell.begin)), end = Math.max(...cells.map((cell) => cell.end));
    const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
    svg.setAttribute('viewBox', `0 0 1000 ${layers.length * LAYER_HEIGHT}`);
    svg.setAttribute('preserveAspectRatio', 'none');
    svg.setAttribute('height', layers.length * LAYER_HEIGHT);
    svg.setAttribute('role', 'img');
    const spans = new Set(cells.map((cell) => cell.begin)).size;
    svg.setAttribute('aria-label', `${name}: ${spans} chunks unfolded between bytes ${begin} and ${end}, in ${layers.length} layers`);
    for (const cell of cells) {
      const rect = document.createElementNS('http://www.w3.org/2000/svg', 'rect');
      const scale = 1000 / (end - begin);
      rect.setAttribute('x', (cell.begin - begin) * scale);
      rect.setAttribute('width', Math.max(2, (cell.end - cell.begin) * scale));
      rect.setAttribute('y', layers.indexOf(cell.layer) * LAYER_HEIGHT);
      rect.setAttribute('height', LAYER_HEIGHT - 1);
      rect.setAttribute('fill-opacity', cell.count / heads.get(cell.layer));
      const title = document.createElementNS('http://www.w3.org/2000/svg', 'title');
      title.textContent = `layer ${cell.layer}, bytes ${cell.begin}–${cell.end}: ${cell.count} of ${heads.get(cell.layer)} heads`;
      rect.append(title);
      svg.append(rect);
    }
    const figure = node('figure');
    figure.append(node('figcaption', `${name}, bytes ${begin}–${end}`), svg);
    return figure;
  });
  $('strips').replaceChildren(...figures);
}

$('upload').addEventListener('submit', upload);
$('ask').addEventListener('submit', ask);
$('stop').addEventListener('click', () => asking && asking.abort());
$('question').addEventListener('keydown', (event) => {
  if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) ask(event);
});
$('collection').addEventListener('change', showFacts);
$('key').value = sessionStorage.getItem('unfold-key') || '';
$('key').addEventListener('change', () => {
  sessionStorage.setItem('unfold-key', $('key').value);
  showCollections();
});
showCollections();
