// Starts the explorer: one model, and another one beside it, on the same image.
//
// page.py puts these files into one function of the page, in the order of their use, with
// this one last. Engine comes before them.

class Explorer {
  constructor(root, {models, points}) {
    const {image, levels} = models[0], shared = new Points(points, image[0] * image[1] * image[2], levels);
    this.models = models.map(facts => {
      let model = null;
      return () => model ??= new Model(facts, shared);
    });
    this.panels = [null, null];
    this.places = [0, 1].map(() => ({above: make('div'), below: make('div')}));
    this.easel = new Easel(image, levels, shared, (...chosen) => this.setImage(...chosen));
    const titles = this.titles = models.map(({title}) => title);
    const second = models.length > 1 ? select('Beside it', ['none', ...titles], i => this.open(1, i - 1)).node : null;
    const panels = part => make('div', {className: 'panels'}, ...this.places.map(place => place[part]));
    this.stage = make('div', {className: 'stage'}, panels('above'),
      make('div', {}, make('h3', {}, 'The image'), this.easel.node, panels('below')));
    root.replaceChildren(row(select('Model', titles, i => this.open(0, i)).node, second), this.stage);
    this.easel.takeDrops(root); // Elsewhere a browser would leave the page for the file.
    this.open(0, 0);
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () =>
      this.panels.forEach(panel => panel?.map?.plane && panel.map.refresh()));
  }

  // Shows a model at a place, 0 or 1; none if there is no model with this number.
  open(place, number) {
    this.panels[place]?.close();
    const panel = this.panels[place] = number in this.models ? this.panelOf(number) : null;
    for (const part of ['above', 'below']) {
      this.places[place][part].replaceChildren(...panel ? [panel[part]] : []);
      this.places[place][part].hidden = !panel;
    }
    this.stage.classList.toggle('alone', !this.panels[1]);
    if (panel && this.image) panel.setImage(...this.image);
  }

  // The panel of a model; in its place, a sentence if the model is damaged.
  panelOf(number) {
    try {
      return new Panel(this.models[number](), point => this.easel.choose(point));
    } catch (error) {
      const sentence = `${this.titles[number]} does not run here: ${reason(error)}`;
      return {above: make('p', {className: 'doubt', role: 'alert'}, sentence), below: '', setImage() {}, close() {}};
    }
  }

  setImage(...image) {
    this.image = image;
    for (const panel of this.panels) panel?.setImage(...image);
  }
}

const root = document.getElementById('explorer-root');
try {
  new Explorer(root, JSON.parse(document.getElementById('explorer-data').textContent));
} catch (error) {
  root.replaceChildren(make('p', {className: 'doubt', role: 'alert'},
    `The explorer cannot start: ${reason(error)} The rest of the page works.`));
}
