// The view of one model: above the image its plane, latents and chain; below it the
// reconstruction and the ELBO.

const MOST_SLIDERS = 64, MOST_LABELS = 20, FRAMES = 7, REST = 150; // ms until a bound is computed

class Panel {
  // onPick takes the number of a test image that was chosen in the plane.
  constructor(model, onPick) {
    Object.assign(this, {model, z: new Float32Array(model.size), y: 0, seed: 0, sliders: []});
    this.notice = make('p', {className: 'doubt', role: 'status'}, model.has('decode') ? '' : model.why('decode'));
    this.coordinates = make('output', {className: 'note'});
    this.decoded = new Picture(model.image, `Mean of ${model.density}`);
    this.show = once(() => this.attempt(() => this.decode()));
    this.map = new PlaneMap(model, place => this.moveTo(place), onPick);
    const parts = [this.classPart(), model.has('denoise') ? this.chainPart() : null];
    this.above = make('div', {}, this.notice, make('div', {className: 'beside'},
      model.hasPlane ? make('div', {}, this.map.canvas, ...this.planePart()) : null,
      make('div', {className: 'decoded'}, this.decoded.node, this.coordinates)),
    ...parts, model.hasPlane ? this.latentsPart() : null);
    this.below = make('div', {}, ...this.imagePart());
    if (model.hasPlane) this.choosePlane(0);
  }

  // Runs a task; a failure becomes a sentence, and the rest of the page works.
  attempt(task) {
    try {
      return task();
    } catch (error) {
      this.notice.textContent = `${this.model.facts.title} does not run here: ${reason(error)}`;
      return false;
    }
  }

  close() {
    for (const stop of [this.stopPoints, this.stopTiles, this.stopChain]) stop?.();
    clearTimeout(this.waiting);
  }

  // --- the plane ---

  planePart() {
    const {names, facts, points} = this.model;
    const kinds = [...facts.directions ? ['principal directions'] : [], names[1] ? 'two latents' : 'one latent'];
    const kind = select('Plane of', kinds, i => this.choosePlane(i));
    this.axes = ['Across', 'Up'].slice(0, names.length).map((text, k) => {
      const axis = select(text, names, () => this.chooseLatents());
      axis.control.value = k;
      return axis;
    });
    this.axesRow = row(...this.axes.map(({node}) => node));
    const toggle = name => on => {
      this.map.shown[name] = on;
      this.drawTiles();
      this.map.refresh();
    };
    const legend = points.names.slice(0, MOST_LABELS).map((name, i) =>
      make('li', {}, make('span', {className: 'dot', style: `background: ${colour(i)}`}), name));
    const others = points.names.length - legend.length;
    if (others) legend.push(make('li', {}, `and ${others} more`));
    return [make('ul', {className: 'legend', 'aria-label': 'Labels of the test images'}, ...legend),
      row(check('test images', true, toggle('points')), check('q(z) and p(z)', true, toggle('contours')),
        check('decoded images', false, toggle('tiles'))),
      row(kind.node, this.axesRow, facts.prior_samples ? button('Draw z from p(z)', () => this.attempt(() => this.sample())) : null),
      make('p', {className: 'note'}, this.meaning())];
  }

  meaning() {
    const {model} = this, prior = model.prior(Plane.ofLatents(model.names, 0, 1));
    const [blue, lines] = model.size > 1 ? ['Blue regions hold 50 % and 90 % of', 'Lines enclose as much of']
      : ['The blue area is the density of', 'The line is that of'];
    const q = `${blue} q(z), the mean of q(z|x) over these test images.`;
    const p = `${lines} p(z)${prior.length > 1 ? ', smoothed over its draws' : ''}.`;
    return [model.has('encode') ? q : model.why('encode'), prior.length ? p : ''].join(' ');
  }

  choosePlane(kind) {
    const {directions} = this.model.facts;
    this.axesRow.hidden = Boolean(directions) && kind === 0;
    if (!this.axesRow.hidden) return this.chooseLatents();
    const [first, second] = rows(floats(directions.axes), this.model.size);
    return this.setPlane(new Plane(first, second, floats(directions.center), ['direction 1', 'direction 2']), 0);
  }

  chooseLatents() {
    const [i, j] = this.axes.map(({control}) => Number(control.value));
    if (i === j) {
      this.axes[1].control.value = (i + 1) % this.model.size;
      return this.chooseLatents();
    }
    const layer = Math.max(this.model.layerOf(i), this.model.layerOf(j ?? i));
    return this.setPlane(Plane.ofLatents(this.model.names, i, j), layer);
  }

  // Shows a plane; a move in it moves the layers below that of its latents too.
  setPlane(plane, layer) {
    this.layer = layer;
    this.map.setPlane(plane, plane.at(this.z));
    this.stopPoints?.();
    let count = 0;
    this.stopPoints = inPieces(() => {
      const more = this.attempt(() => this.model.encodeNext());
      if (more ? ++count % 100 === 0 : count) {
        this.map.fit();
        this.drawTiles();
      }
      return more;
    });
    this.drawTiles();
  }

  // Decodes images all over the plane, with the other latents as they are.
  drawTiles() {
    this.stopTiles?.();
    if (!this.map.shown.tiles) return;
    const {plane, reach, tiles} = this.map, from = this.z.slice();
    let count = 0;
    this.stopTiles = inPieces(() => this.attempt(() => {
      const places = [count % TILES, Math.floor(count / TILES)];
      const at = places.map(k => ((2 * k + 1) / TILES - 1) * reach), picture = new Picture(this.model.image);
      picture.show(this.model.decode(this.model.below(this.layer, plane.moved(from, at), this.y), this.y));
      tiles[count++] = {canvas: picture.canvas, at};
      if (count % TILES === 0) this.map.refresh();
      return count < TILES ** 2;
    }));
  }

  moveTo(place) {
    const {model, layer, y} = this;
    this.attempt(() => this.setZ(model.below(layer, this.map.plane.moved(this.z, place), y), place));
  }

  // Moves to z, in the plane to a place of it; without one, the map keeps the new place.
  setZ(z, place = null) {
    this.z = z;
    if (this.map.plane) this.map.place = place ?? this.map.plane.at(z);
    if (!place) {
      this.map.kept = this.map.place;
      this.drawTiles();
    }
    this.show();
  }

  decode() {
    if (!this.model.has('decode')) return;
    this.decoded.show(this.model.decode(this.z, this.y));
    this.sliders.forEach((slider, i) => { slider.value = this.z[i]; });
    if (!this.map.plane) return;
    this.map.redraw();
    this.coordinates.textContent = this.map.plane.names.filter(Boolean)
      .map((name, i) => `${name} = ${fixed(this.map.place[i])}`).join(', ');
  }

  sample() {
    const {draws} = this.model;
    this.setZ(draws[this.seed++ % draws.length].slice());
  }

  latentsPart() {
    const {model} = this, shown = model.names.slice(0, MOST_SLIDERS);
    const all = shown.map((name, i) => range(name, [-5, 5, 0.05], 0, value => this.attempt(() => {
      const z = Float32Array.from(this.z, (old, k) => k === i ? value : old);
      this.setZ(model.below(model.layerOf(i), z, this.y));
    })));
    this.sliders = all.map(({control}) => control);
    const title = shown.length < model.size ? `The first ${shown.length} of ${model.size} latents` : 'All latents';
    return make('details', {}, make('summary', {}, title), row(...all.map(({node}) => node)));
  }

  // --- classes and chains ---

  classPart() {
    if (!this.model.classes) return null;
    this.classes = select('Class y', this.model.classes, y => this.setClass(y));
    return row(this.classes.node);
  }

  chainPart() {
    const steps = range('Steps from noise to image', [1, 64, 1], 16, () => this.runChain());
    this.steps = steps.control;
    this.progress = make('p', {className: 'note', role: 'status'});
    this.frames = Array.from({length: FRAMES}, () => new Picture(this.model.image));
    const why = 'This model has no plane: its latents are noisy images, which the denoiser turns into an image step by step.';
    return make('div', {className: 'chain'}, this.model.hasPlane ? null : make('p', {className: 'note'}, why), row(steps.node, button('New noise', () => { this.seed++; this.runChain(); })),
      make('div', {className: 'frames'}, ...this.frames.map(({node}) => node)), this.progress);
  }

  // Goes from noise to an image, and shows what the denoiser sees on the way.
  runChain() {
    this.stopChain?.();
    const {model, y} = this, steps = Number(this.steps.value), path = this.map.path = [];
    const gamma = i => model.run('schedule', {t: 1 - i / steps}, y).gamma[0];
    let frame = 0;
    this.stopChain = inPieces(() => this.attempt(() => {
      if (!path.length) path.push(model.run('start', {noise: normals(this.seed, model.size)}, y).z);
      const i = path.length - 1;
      const found = model.run('denoise', {z: path[i], gamma: gamma(i), gamma_before: gamma(i + 1)}, y);
      path.push(found.z);
      for (; frame < FRAMES && frame * (steps - 1) <= i * (FRAMES - 1); frame++) {
        this.frames[frame].show(model.decode(found.seen, y));
        this.frames[frame].say(`Step ${i + 1}`);
      }
      this.progress.textContent = `Step ${i + 1} of ${steps} of DDIM. Each image is E[x|z_t], what the denoiser expects then.`;
      if (i + 1 === steps) this.setZ(found.z);
      return i + 1 < steps;
    }));
  }

  // --- the image ---

  imagePart() {
    const titles = ['As the model sees it', 'Reconstruction: the decoded mean of q(z|x)', ''];
    this.pictures = titles.map(title => new Picture(this.model.image, title));
    this.pictures[0].node.hidden = !this.model.isBinary;
    this.numbers = make('p', {role: 'status'});
    return [make('div', {className: 'frames'}, ...this.pictures.map(({node}) => node)), this.numbers];
  }

  // Takes an image, and its label if it has one, and moves to its posterior mean.
  setImage(image, label) {
    this.image = image;
    const mean = this.setClass(this.model.classOf(label));
    if (mean) this.setZ(mean.slice());
  }

  // Encodes the image given a class y, if it has one; z stays. Returns the posterior mean,
  // if the model decodes one.
  setClass(y) {
    const {model, image} = this, [seen, reconstruction] = this.pictures;
    const changed = model.classes && y !== null && y !== this.y;
    if (changed) {
      this.classes.control.value = this.y = y;
      this.show();
      this.drawTiles();
    }
    if (model.has('denoise') && (changed || !this.map.path.length)) this.runChain();
    clearTimeout(this.waiting);
    this.waiting = setTimeout(() => this.attempt(() => this.setBound(image)), REST);
    return this.attempt(() => {
      seen.show(model.seen(image));
      const q = this.map.encoding = model.encode(image, this.y);
      reconstruction.node.hidden = !q || !model.hasPlane;
      if (reconstruction.node.hidden) return null;
      reconstruction.show(model.decode(q.mean, this.y));
      return q.mean;
    });
  }

  // Shows the bound of an image, and the terms of its pixels.
  setBound(image) {
    const {model} = this, {bound, unit} = model.facts, terms = this.pictures[2];
    const parts = model.has('encode') ? [] : [model.why('encode')], words = model.classes ? '−ELBO of p(x|y)' : '−ELBO';
    terms.node.hidden = !model.has('bound');
    if (model.has('bound')) {
      const found = model.run('bound', {image: model.seen(image)}, this.y);
      terms.showTerms(found.reconstruction);
      parts.push(`${words} ${model.inUnit(found.elbo[0])}: ${fixed(-sum(found.reconstruction), 1)} nats of `
        + `reconstruction, −E_q[log ${model.density}], and ${fixed(sum(found.kl), 1)} nats of KL.`);
    } else {
      if (bound && image.point !== null) parts.push(`${words} ${fixed(floats(bound)[image.point], 3)} ${unit.name}, as in evaluation.`);
      parts.push(model.why('bound'));
    }
    this.numbers.textContent = [...new Set(parts)].join(' ');
  }
}
