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

// Sends the files as a form, and says how far it is; fetch cannot.
function send(path, form, onProgress) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open('POST', path);
    if ($('key').value) request.setRequestHeader('Authorization', `Bearer ${$('key').value}`);
    request.upload.addEventListener('progress', (event) => onProgress(event.loaded, event.total));
    request.addEventListener('error', () => reject(new Error('the connection to the server ended')));
    request.addEventListener('load', () => {
      let body = {};
      try {
        body = JSON.parse(request.responseText);
      } catch {
        // not of this server: the status says what there is to say
      }
      if (request.status === 202) return resolve(body);
      reject(new Error(body.error ? body.error.message : `the server answered ${request.status}`));
    });
    request.send(form);
  });
}

async function upload(event) {
  event.preventDefault();
  const target = $('target').value;
  const bar = $('upload-progress');
  const show = (text, done, all) => {
    say($('upload-status'), text);
    bar.hidden = false;
    bar.max = all;
    bar.value = done;
  };
  $('verdicts').replaceChildren();
  try {
    const form = new FormData();
    for (const file of $('files').files) form.append('files', file, file.name);
    const path = `v1/collections/${encodeURIComponent(target)}/documents`;
    let job = await send(path, form, (sent, all) => show(`sending: ${Math.round(100 * sent / all)} %`, sent, all));
    while (job.state === 'queued' || job.state === 'running') {
      const {done, documents} = job.progress;
      show(`${job.state}: ${done} of ${documents}`, done, documents);
      await new Promise((resolve) => setTimeout(resolve, 300));
      job = await (await call(`v1/jobs/${job.id}`)).json();
    }
    say($('upload-status'), `${job.state}: ${job.documents.length} documents`, job.state === 'failed');
    $('verdicts').replaceChildren(
        ...job.documents.map((d) => node('li', `${d.name}: ${d.outcome}${d.error ? ` (${d.error})` : ''}`)));
    await showCollections(target);
  } catch (error) {
    say($('upload-status'), error.message, true);
  } finally {
    bar.hidden = true;
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
  const collection = $('collection').value;
  const body = {
    model: `unfold:${collection}`,
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
      if (!chunk.unfold) continue;
      showExtras(chunk.unfold);
      await showUnfolded(collection, chunk.unfold);
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
}

// ---- what was unfolded

// Of each document its chunks, each with how many heads of each layer unfolded it; and how many heads there are.
function countHeads(unfolded) {
  const documents = new Map();
  const layers = [...new Set(unfolded.map(({layer}) => layer))].sort((a, b) => a - b);
  const heads = 1 + Math.max(0, ...unfolded.map(({kv_head: head}) => head));
  for (const {layer, chunks} of unfolded) {
    for (const {document, byte_begin: begin, byte_end: end} of chunks) {
      if (!documents.has(document)) documents.set(document, new Map());
      const own = documents.get(document);
      if (!own.has(begin)) own.set(begin, {begin, end, counts: layers.map(() => 0)});
      own.get(begin).counts[layers.indexOf(layer)] += 1;
    }
  }
  return {documents, layers, heads};
}

function svgNode(name, attributes) {
  const made = document.createElementNS('http://www.w3.org/2000/svg', name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

// The whole document from left to right, a row for each layer.
function stripOf(name, chunks, size, layers, heads) {
  const height = layers.length * LAYER_HEIGHT;
  const svg = svgNode('svg', {viewBox: `0 0 1000 ${height}`, preserveAspectRatio: 'none', height, role: 'img',
                              'aria-label': `${name}: ${chunks.length} chunks unfolded, in ${layers.length} layers`});
  for (const {begin, end, counts} of chunks) {
    counts.forEach((count, i) => {
      if (count === 0) return;
      const rect = svgNode('rect', {x: 1000 * begin / size, width: Math.max(2, 1000 * (end - begin) / size),
                                    y: i * LAYER_HEIGHT, height: LAYER_HEIGHT - 1, 'fill-opacity': count / heads});
      const title = svgNode('title', {});
      title.textContent = `layer ${layers[i]}, bytes ${begin}–${end}: ${count} of ${heads} heads`;
      rect.append(title);
      svg.append(rect);
    });
  }
  return svg;
}

// A chunk's text with a band behind it for each of its layers, or for one of them.
function paint(mark, counts, heads, only) {
  const shown = only < 0 ? counts : [counts[only]];
  const stops = shown.map((count, i) => {
    const color = `rgba(var(--heat), ${0.75 * count / heads})`;
    return `${color} ${100 * i / shown.length}% ${100 * (i + 1) / shown.length}%`;
  });
  mark.style.background = `linear-gradient(to bottom, ${stops.join(', ')})`;
}

// The text around what was unfolded of it; what lies farther off is left out.
function textOf(bytes, chunks, layers, heads) {
  const AROUND = 300;
  const decode = (begin, end) => new TextDecoder().decode(bytes.subarray(begin, end));
  const cut = (begin, end) => decode(begin, end).replace(/^\uFFFD+|\uFFFD+$/g, '');  // perhaps inside a character
  const text = node('p', '', {class: 'text'});
  let at = 0;
  const plain = (end) => {
    if (at >= end) return;
    if (end - at <= 2 * AROUND + 100) return text.append(decode(at, end));
    if (at > 0) text.append(cut(at, at + AROUND));
    text.append(node('span', ` … ${end - at - (at > 0 ? 2 : 1) * AROUND} bytes … `, {class: 'note'}), cut(end - AROUND, end));
  };
  for (const {begin, end, counts} of chunks) {
    if (begin < at) continue;  // of a title that several parts share
    plain(begin);
    const mark = node('mark', decode(begin, end));
    const share = layers.filter((_, i) => counts[i] > 0).join(', ');
    mark.title = `bytes ${begin}–${end}: unfolded in layers ${share}`;
    mark.counts = counts;
    paint(mark, counts, heads, -1);
    text.append(mark);
    at = end;
  }
  if (bytes.length - at > AROUND) {
    text.append(cut(at, at + AROUND), node('span', ` … ${bytes.length - at - AROUND} bytes`, {class: 'note'}));
  } else {
    text.append(decode(at, bytes.length));
  }
  return text;
}

async function showUnfolded(collection, {unfolded = [], placed}) {
  const {documents, layers, heads} = countHeads(unfolded);
  const option = (layer, i) => node('option', `layer ${layer}`, {value: i});
  $('layer').replaceChildren(node('option', 'all layers', {value: -1}), ...layers.map(option));
  $('layer').onchange = () => {
    for (const mark of $('strips').querySelectorAll('mark')) paint(mark, mark.counts, heads, Number($('layer').value));
  };
  for (const name of new Set(placed)) {
    if (!documents.has(name)) continue;
    const chunks = [...documents.get(name).values()].sort((a, b) => a.begin - b.begin);
    const path = `v1/collections/${encodeURIComponent(collection)}/documents/${encodeURIComponent(name)}/text`;
    const bytes = new Uint8Array(await (await call(path)).arrayBuffer());
    const figure = node('figure');
    figure.append(node('figcaption', `${name}: ${chunks.length} chunks unfolded`),
                  stripOf(name, chunks, bytes.length, layers, heads), textOf(bytes, chunks, layers, heads));
    $('strips').append(figure);
  }
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
