// The image that all models see: a test image, a drawing, or a file.

class Easel {
  // onImage takes an image and its label; points.count may be 0.
  constructor(image, levels, points, onImage) {
    const [height, width, channels] = image, longest = Math.max(height, width, 6);
    Object.assign(this, {image, levels, points, pen: [1, 1, 1], radius: longest / 24, at: [0, 0]});
    this.pixels = new Float32Array(height * width * channels);
    this.picture = new Picture(image);
    this.emit = once(() => onImage({pixels: this.pixels, point: this.point}, points.labelOf(this.point)));
    this.notice = make('p', {className: 'note', role: 'status'});
    this.cursor = make('span', {className: 'cursor'});
    const file = make('input', {type: 'file', accept: 'image/*'});
    file.addEventListener('click', () => { file.value = ''; }); // The same file may be chosen again.
    const pen = range('Pen', [0.25, longest / 6, 0.05], this.radius, value => { this.radius = value; });
    this.node = make('div', {className: 'image'},
      make('div', {className: 'easel'}, this.picture.canvas, this.cursor),
      make('div', {}, this.picture.caption, row(this.choicePart(), button('Clear', () => this.clear())),
        row(this.inkPart(), pen.node),
        labelled('A file, chosen or dropped here', file, 'change', () => this.read(file.files[0])).node, this.notice));
    this.listen(this.picture.canvas);
    if (points.count) this.choose(0);
    else this.clear();
  }

  choicePart() {
    const {count} = this.points;
    if (!count) return null;
    this.number = make('input', {type: 'number', min: 1, max: count});
    return labelled(`Test image, 1 to ${count}`, this.number, 'change',
      value => this.choose(clip(Math.round(Number(value)) || 1, 1, count) - 1)).node;
  }

  inkPart() {
    if (this.image[2] < 3) return range('Ink, black to white', [0, 1, 0.05], 1, value => this.pen.fill(value)).node;
    return labelled('Ink', make('input', {type: 'color', value: '#ffffff'}), 'input', value => {
      this.pen = [1, 3, 5].map(i => parseInt(value.slice(i, i + 2), 16) / 255);
    }).node;
  }

  listen(canvas) {
    canvas.tabIndex = 0;
    canvas.setAttribute('role', 'application');
    const place = event => placeOn(canvas, event).map((x, i) => x * this.image[1 - i] - 0.5);
    canvas.addEventListener('pointerdown', event => {
      canvas.setPointerCapture(event.pointerId);
      this.at = place(event);
      this.stroke(this.at);
    });
    canvas.addEventListener('pointermove', event => event.buttons && this.stroke(place(event)));
    canvas.addEventListener('keydown', event => this.onKey(event));
  }

  onKey(event) {
    const move = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1], ' ': [0, 0]}[event.key];
    if (!move) return;
    event.preventDefault();
    const to = this.at.map((x, i) => clip(Math.round(x) + move[i], 0, this.image[1 - i] - 1));
    if (event.key === ' ' || event.shiftKey) this.stroke(to);
    this.at = to;
    const [height, width] = this.image.map(size => 100 / size);
    Object.assign(this.cursor.style, {display: 'block', width: `${width}%`, height: `${height}%`,
      left: `${width * to[0]}%`, top: `${height * to[1]}%`});
  }

  // Draws a line from where the pen is; places and the pen are in pixels of the image.
  stroke(to) {
    const [, width, channels] = this.image, {at, radius, pen} = this;
    const pieces = Math.ceil(2 * Math.hypot(to[0] - at[0], to[1] - at[1])) || 1;
    const places = Array.from({length: pieces + 1}, (_, k) => at.map((x, i) => x + (to[i] - x) * k / pieces));
    const pixels = this.pixels.map((value, i) => {
      const pixel = Math.floor(i / channels), x = pixel % width, y = Math.floor(pixel / width);
      const distance = Math.min(...places.map(([u, v]) => Math.hypot(x - u, y - v)));
      return value + clip(radius + 0.5 - distance, 0, 1) * (pen[i % channels] - value);
    });
    this.at = to;
    this.change(pixels, 'Your drawing');
  }

  clear() {
    this.change(new Float32Array(this.pixels.length), 'Your drawing');
  }

  choose(point) {
    const label = this.points.names[this.points.labelOf(point)];
    this.number.value = point + 1;
    this.change(this.points.images[point], `Test image ${point + 1}${label ? `, label ${label}` : ''}`, point);
  }

  // Takes files that are dropped on a node.
  takeDrops(node) {
    node.addEventListener('dragover', event => event.preventDefault());
    node.addEventListener('drop', event => {
      event.preventDefault();
      this.read(event.dataTransfer.files[0]);
    });
  }

  // Takes an image, at the levels that the models know.
  change(pixels, words, point = null) {
    const white = this.levels - 1;
    this.pixels = pixels.map(value => Math.round(clip(value, 0, 1) * white) / white);
    this.point = point;
    this.notice.textContent = '';
    this.picture.show(this.pixels);
    this.picture.say(words);
    this.picture.canvas.setAttribute('aria-label',
      `${words}. Arrow keys move the pen, Space draws, an arrow key with Shift draws a line.`);
    this.emit();
  }

  async read(file) {
    if (!file) return;
    this.file = file;
    const [height, width] = this.image;
    const bitmap = await (async () => createImageBitmap(file))().catch(() => null);
    if (this.file !== file) return; // Another one came meanwhile.
    const name = file.name.replace(/\p{C}/gu, ''); // Some characters turn the text around them.
    const use = () => this.change(this.pixelsOf(bitmap), name);
    if (!bitmap) {
      this.notice.textContent = `${name} is no image of pixels that this browser reads, or is too large for it. `
        + 'Choose a PNG, JPEG or WebP file of fewer pixels.';
    } else if (bitmap.width === width && bitmap.height === height) use();
    else {
      this.notice.replaceChildren(`${name} has ${bitmap.width} × ${bitmap.height} pixels, and the models are of `
        + `${width} × ${height}. `, button('Resize it', use));
    }
  }

  pixelsOf(bitmap) {
    const [height, width, channels] = this.image;
    const context = make('canvas', {width, height}).getContext('2d');
    context.fillRect(0, 0, width, height); // Black, behind what is not opaque.
    context.imageSmoothingQuality = 'high';
    context.drawImage(bitmap, 0, 0, width, height);
    const {data} = context.getImageData(0, 0, width, height);
    const grey = [0.299, 0.587, 0.114];
    return this.pixels.map((_, i) => {
      const colours = data.subarray(4 * Math.floor(i / channels));
      return (channels === 3 ? colours[i % 3] : sum(grey.map((weight, k) => weight * colours[k]))) / 255;
    });
  }
}
