// The map: a plane through latent space, over which a reader moves, with the test images,
// contours of q(z) and p(z), and the place of z.

const SIDE = 340, MARGIN = 26, INSIDE = SIDE - 2 * MARGIN; // pixels of CSS
const GRID = 121, SHARES = [0.5, 0.9], TILES = 13, NEAR = 9;

class PlaneMap {
  // onMove takes [u, v], onPick the number of a test image.
  constructor(model, onMove, onPick) {
    Object.assign(this, {model, onMove, onPick, tiles: [], path: [], encoding: null});
    this.shown = {points: true, contours: true, tiles: false};
    this.canvas = make('canvas', {className: 'map', tabIndex: 0, role: 'application'});
    this.still = make('canvas'); // The part that does not move with z.
    this.place = this.kept = [0, 0]; // Where z is, and where a click has put it.
    this.redraw = once(() => this.draw());
    this.refresh = once(() => { this.drawStill(); this.draw(); });
    this.listen();
  }

  listen() {
    const {canvas} = this;
    canvas.addEventListener('pointerdown', event => {
      canvas.setPointerCapture(event.pointerId);
      this.keep(this.placeOf(event));
      this.pick(NEAR / this.scale);
    });
    canvas.addEventListener('pointermove', event => {
      if (event.buttons) this.keep(this.placeOf(event));
      else if (event.pointerType === 'mouse') this.onMove(this.placeOf(event));
    });
    canvas.addEventListener('pointerleave', event => event.buttons || this.onMove(this.kept));
    canvas.addEventListener('keydown', event => this.onKey(event));
  }

  onKey(event) {
    const step = (event.shiftKey ? 0.1 : 0.02) * this.reach;
    const moves = {ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, step], ArrowDown: [0, -step]};
    if (event.key === 'Enter') this.pick(Infinity);
    else if (event.key === 'Home') this.keep([0, 0]);
    else if (event.key in moves) this.keep(this.kept.map((x, i) => x + moves[event.key][i]));
    else return;
    event.preventDefault();
  }

  keep(place) {
    this.kept = place.map(x => clip(x, -this.reach, this.reach));
    this.onMove(this.kept);
  }

  // Chooses the test image that is nearest, within a distance.
  pick(most) {
    let best = null;
    this.encodedPlaces().forEach(([u, v], n) => {
      const distance = Math.hypot(u - this.kept[0], v - this.kept[1]);
      if (this.shown.points && distance < most) [best, most] = [n, distance];
    });
    if (best !== null) this.onPick(best);
  }

  // The places of the test images that are encoded; others are left open.
  encodedPlaces() {
    return this.model.encoded.map(q => q ? this.plane.at(q.mean) : [NaN, NaN]);
  }

  setPlane(plane, place) {
    Object.assign(this, {plane, place, kept: place, tiles: []});
    this.canvas.setAttribute('aria-label', `Plane of ${plane.names.filter(Boolean).join(' and ')}. Arrow keys move `
      + 'z, with Shift farther; Home goes to the center; Enter chooses the nearest test image.');
    this.fit();
  }

  // Sets the range so that it holds p(z), q(z) and the test images.
  fit() {
    const {model, plane} = this;
    const ends = (gaussians, deviations) => gaussians.flatMap(({at: [u, v], cov: [uu, , vv]}) =>
      [Math.abs(u) + deviations * Math.sqrt(uu), Math.abs(v) + deviations * Math.sqrt(vv)]);
    // The posteriors are many: few of their ends lie far out.
    const far = [...ends(model.prior(plane), 2.2), ...ends(model.posteriors(plane), 1),
      ...this.encodedPlaces().flat().map(Math.abs)].filter(Number.isFinite);
    this.reach = Math.ceil(1.02 * Math.max(2, ...far));
    this.refresh();
  }

  get scale() {
    return INSIDE / (2 * this.reach);
  }

  placeOf(event) {
    const [x, y] = placeOn(this.canvas, event);
    return [(x - 0.5) * SIDE / this.scale, (0.5 - y) * SIDE / this.scale];
  }

  toPixels([u, v]) {
    return [SIDE / 2 + u * this.scale, SIDE / 2 - v * this.scale];
  }

  // Returns the context of a canvas, cleared, in pixels of CSS.
  begin(canvas) {
    const ratio = Math.max(2, devicePixelRatio), context = canvas.getContext('2d');
    canvas.width = canvas.height = SIDE * ratio;
    context.scale(ratio, ratio);
    return context;
  }

  drawStill() {
    const context = this.begin(this.still), {shown, plane, model} = this;
    if (shown.tiles) this.drawTiles(context);
    this.drawAxes(context);
    context.save();
    context.beginPath();
    context.rect(MARGIN, MARGIN, INSIDE, INSIDE);
    context.clip();
    if (shown.contours) {
      const both = [model.posteriors(plane), model.prior(plane)];
      if (plane.names[1]) {
        this.drawRegions(context, both[0]);
        this.drawContours(context, both[1]);
      } else this.drawCurves(context, both);
    }
    if (shown.points) this.drawPoints(context);
    context.restore();
  }

  drawAxes(context) {
    const end = MARGIN + INSIDE, {reach, plane: {names}} = this;
    context.strokeStyle = css('--gap');
    context.strokeRect(MARGIN, MARGIN, INSIDE, INSIDE);
    Object.assign(context, {fillStyle: css('--soft'), font: '11px system-ui, sans-serif', textAlign: 'center'});
    const tick = Math.ceil(reach / 4);
    for (let value = -tick * Math.floor(reach / tick); value <= reach; value += tick) {
      const [x, y] = this.toPixels([value, value]);
      context.fillText(fixed(value, 0), x, end + 13);
      if (names[1]) context.fillText(fixed(value, 0), MARGIN - 11, y + 4);
    }
    context.fillText(names[0], SIDE / 2, SIDE - 1);
    context.rotate(-Math.PI / 2);
    context.fillText(names[1], -SIDE / 2, 9);
    context.rotate(Math.PI / 2);
  }

  drawTiles(context) {
    context.imageSmoothingEnabled = false;
    for (const {canvas, at} of this.tiles) {
      const [x, y] = this.toPixels(at), size = 0.94 * INSIDE / TILES;
      context.drawImage(canvas, x - size / 2, y - size / 2, size, size);
    }
  }

  drawPoints(context) {
    this.encodedPlaces().forEach((place, n) => {
      context.fillStyle = colour(this.model.points.labelOf(n) ?? 0);
      context.beginPath();
      context.arc(...this.toPixels(place), 2.4, 0, 2 * Math.PI);
      context.fill();
    });
  }

  // The density of Gaussians on a grid, and its levels that hold the SHARES of its mass.
  levels(gaussians) {
    const grid = density(gaussians, this.reach, GRID);
    return {grid, levels: SHARES.map(share => levelOf(grid, share))};
  }

  // Fills the region inside each level; inner ones are darker.
  drawRegions(context, gaussians) {
    if (!gaussians.length) return;
    const {grid, levels} = this.levels(gaussians), canvas = make('canvas', {width: GRID, height: GRID});
    const own = canvas.getContext('2d');
    Object.assign(own, {fillStyle: css('--accent'), globalAlpha: 0.22});
    grid.forEach((value, i) => levels.forEach(level => {
      if (value > level) own.fillRect(i % GRID, GRID - 1 - Math.floor(i / GRID), 1, 1);
    }));
    const edge = INSIDE / (GRID - 1) / 2; // A pixel of the grid is around its place.
    context.drawImage(canvas, MARGIN - edge, MARGIN - edge, INSIDE + 2 * edge, INSIDE + 2 * edge);
  }

  // Draws q(z) and p(z) of one latent, below the points and with one scale.
  drawCurves(context, both) {
    const middle = Math.floor(GRID / 2) * GRID; // The place of the row of v = 0.
    const curves = both.map(each => density(each, this.reach, GRID).slice(middle, middle + GRID));
    const most = Math.max(...curves.flatMap(curve => [...curve])), end = MARGIN + INSIDE;
    Object.assign(context, {fillStyle: css('--accent'), strokeStyle: css('--soft')});
    const [area, line] = curves.map(curve => {
      const path = new Path2D();
      curve.forEach((value, i) => path.lineTo(MARGIN + INSIDE * i / (GRID - 1), end - 0.45 * INSIDE * value / (most || 1)));
      return path;
    });
    area.lineTo(end, end);
    area.lineTo(MARGIN, end);
    context.globalAlpha = 0.35;
    context.fill(area);
    context.globalAlpha = 1;
    context.stroke(line);
  }

  drawContours(context, gaussians) {
    if (!gaussians.length) return;
    const {grid, levels} = this.levels(gaussians);
    context.strokeStyle = css('--soft');
    context.beginPath();
    for (const segment of levels.flatMap(level => contour(grid, this.reach, GRID, level))) {
      context.moveTo(...this.toPixels(segment.slice(0, 2)));
      context.lineTo(...this.toPixels(segment.slice(2)));
    }
    context.stroke();
  }

  // Draws the part that moves: z, the path of a chain, and q(z|x) of the chosen image.
  draw() {
    const context = this.begin(this.canvas), [x, y] = this.toPixels(this.place);
    context.drawImage(this.still, 0, 0, SIDE, SIDE);
    Object.assign(context, {strokeStyle: css('--ink'), fillStyle: css('--ink'), lineWidth: 1.5});
    if (this.encoding) this.drawEncoding(context);
    context.beginPath();
    for (const z of this.path) context.lineTo(...this.toPixels(this.plane.at(z)));
    context.moveTo(x + 6, y);
    context.arc(x, y, 6, 0, 2 * Math.PI);
    for (const [dx, dy] of [[0, 1], [0, -1], [1, 0], [-1, 0]]) {
      context.moveTo(x + 3 * dx, y + 3 * dy);
      context.lineTo(x + 11 * dx, y + 11 * dy);
    }
    context.stroke();
  }

  // An ellipse at one standard deviation of q(z|x).
  drawEncoding(context) {
    const {mean, sd = new Float32Array(mean.length)} = this.encoding;
    const {at, cov: [uu, uv, vv]} = this.plane.marginal(mean, sd);
    const half = (uu + vv) / 2, root = Math.hypot((uu - vv) / 2, uv);
    const radii = [half + root, half - root].map(x => Math.max(Math.sqrt(Math.max(x, 0)) * this.scale, 2));
    context.globalAlpha = 0.25;
    context.beginPath();
    context.ellipse(...this.toPixels(at), ...radii, -Math.atan2(2 * uv, uu - vv) / 2, 0, 2 * Math.PI);
    context.fill();
    context.globalAlpha = 1;
  }
}
