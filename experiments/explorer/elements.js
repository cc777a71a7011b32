// Elements of the page, and pictures. Texts become text nodes only, so no name is ever
// markup. An image is a Float32Array [height * width * channels] of 0 ... 1.

const bytes = text => Uint8Array.from(atob(text), character => character.charCodeAt(0));
const floats = text => new Float32Array(bytes(text).buffer);
// A number with a true minus sign, and none before zero.
const fixed = (x, digits = 2) => (Math.abs(x) < 1e7 ? x.toFixed(digits) : x.toExponential(2))
  .replace(/^-(?=.*[1-9I])/, '−').replace('-', '');

function make(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in node) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children.filter(child => child !== null));
  return node;
}

// Why something does not work, and what a reader can do.
const reason = error => `the page is damaged, or this browser is too old (${error.message.replace(/\.$/, '')}). `
  + 'Open it in a browser of 2022 or later, or write it again with experiments.explore.';

const row = (...children) => make('div', {className: 'row'}, ...children);

// A control with its label, which calls a function with its value.
function labelled(text, control, event, onValue) {
  control.addEventListener(event, () => onValue(control.value));
  const node = make('label', {}, make('span', {}, text), control);
  return {node, control};
}

function select(text, options, onChange) {
  const control = make('select', {}, ...options.map((option, value) => make('option', {value}, option)));
  return labelled(text, control, 'change', value => onChange(Number(value)));
}

function range(text, [min, max, step], value, onInput) {
  const control = make('input', {type: 'range', min, max, step});
  control.value = value;
  return labelled(text, control, 'input', changed => onInput(Number(changed)));
}

function check(text, checked, onChange) {
  const control = make('input', {type: 'checkbox', checked});
  control.addEventListener('change', () => onChange(control.checked));
  return make('label', {className: 'check'}, control, make('span', {}, text));
}

function button(text, onClick) {
  const control = make('button', {type: 'button'}, text);
  control.addEventListener('click', onClick);
  return control;
}

// The place of a pointer on a canvas, from 0 to 1.
function placeOn(canvas, event) {
  const box = canvas.getBoundingClientRect();
  return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
}

const css = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// Runs a task at most once in a frame, however often it is asked for.
function once(task) {
  let asked = false;
  return () => {
    if (!asked) requestAnimationFrame(() => { asked = false; task(); });
    asked = true;
  };
}

// Runs steps until one returns false, in pieces that leave the page responsive; returns
// a function that stops them.
function inPieces(step) {
  let stopped = false;
  const piece = () => {
    const end = performance.now() + 12;
    while (!stopped && performance.now() < end) stopped = step() === false;
    if (!stopped) setTimeout(piece);
  };
  setTimeout(piece);
  return () => { stopped = true; };
}

// --- pictures -------------------------------------------------------------------------

const COLOURS = ['#0072b2', '#d55e00', '#009e73', '#cc79a7', '#8c6d1f', '#56b4e9',
  '#e69f00', '#7f3fbf', '#7a7a7a', '#b22222'];
const colour = i => COLOURS[i] ?? `hsl(${137.5 * i % 360}, 60%, 50%)`;

// A colour from black by orange to pale yellow, for x from 0 to 1.
const glow = x => [[0, 230, 255], [0, 90, 245], [0, 0, 200]].map(([low, middle, high]) =>
  x < 0.5 ? low + 2 * x * (middle - low) : middle + (2 * x - 1) * (high - middle));

// A figure with a pixel for each pixel of an image; CSS enlarges it.
class Picture {
  constructor([height, width, channels], text = '') {
    this.channels = channels;
    this.canvas = make('canvas', {width, height, role: 'img'});
    this.caption = make('figcaption');
    this.node = make('figure', {}, this.canvas, this.caption);
    this.say(text);
  }

  say(text) {
    this.caption.textContent = text;
    this.canvas.setAttribute('aria-label', text);
  }

  // Draws a colour, [red, green, blue] of 0 ... 255, for each pixel.
  draw(colourOf) {
    const context = this.canvas.getContext('2d');
    const {width, height} = this.canvas, image = context.createImageData(width, height);
    for (let i = 0; i < width * height; i++) image.data.set([...colourOf(i), 255], 4 * i);
    context.putImageData(image, 0, 0);
  }

  show(image) {
    const of = this.channels < 3 ? [0, 0, 0] : [0, 1, 2];
    this.draw(i => of.map(channel => 255 * clip(image[i * this.channels + channel], 0, 1)));
  }

  // Shows the terms log p(x_i|z) of the pixels, and their range.
  showTerms(terms) {
    const costs = Array.from(rows(terms, this.channels), pixel => -sum(pixel));
    const [low, high] = [Math.min, Math.max].map(of => costs.reduce((a, b) => of(a, b)));
    this.draw(i => glow((costs[i] - low) / (high - low || 1)));
    this.say(`Terms of the pixels: from ${fixed(-low)} (dark) to ${fixed(-high)} nats (bright)`);
  }
}
