// The mathematics of the explorer: planes through latent space, and densities on them.

const clip = (x, low, high) => Math.min(Math.max(x, low), high);
const sum = values => values.reduce((total, x) => total + x, 0);
const dot = (a, b) => a.reduce((total, x, i) => total + x * b[i], 0);

// The rows of a matrix that is stored row by row.
const rows = (array, width) =>
  Array.from({length: array.length / width}, (_, i) => array.subarray(i * width, (i + 1) * width));

// Numbers between 0 and 1 that a seed gives, by Marsaglia's xorshift generator.
function uniform(seed, count) {
  let state = Math.imul(seed + 1, 0x9e3779b1);
  const next = () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return ((state >>> 0) + 0.5) / 2 ** 32;
  };
  for (let i = 0; i < 8; i++) next(); // Seeds that are close give states that are not.
  return Float32Array.from({length: count}, next);
}

// Standard normal numbers that a seed gives, by the transform of Box and Muller.
function normals(seed, count) {
  const numbers = uniform(seed, 2 * count);
  return Float32Array.from({length: count}, (_, i) =>
    Math.sqrt(-2 * Math.log(numbers[2 * i])) * Math.cos(2 * Math.PI * numbers[2 * i + 1]));
}

// A plane through latent space: a center, and two orthonormal directions.
class Plane {
  constructor(first, second, center, names) {
    Object.assign(this, {first, second, center, names});
  }

  // The plane of latents i and j; with one latent, j is undefined and a line is left.
  static ofLatents(names, i, j) {
    const axis = k => Float32Array.from(names, (_, place) => Number(place === k));
    return new Plane(axis(i), axis(j), new Float32Array(names.length), [names[i], names[j] ?? '']);
  }

  // Where z is seen on the plane, [u, v].
  at(z) {
    const from = z.map((value, i) => value - this.center[i]);
    return [dot(this.first, from), dot(this.second, from)];
  }

  // z moved along the plane, so that it is seen at [u, v].
  moved(z, [u, v]) {
    const now = this.at(z);
    return z.map((value, i) => value + (u - now[0]) * this.first[i] + (v - now[1]) * this.second[i]);
  }

  // The marginal of N(mean, diag(sd^2)): its mean, and its covariance [uu, uv, vv].
  marginal(mean, sd) {
    const weighted = (a, b) => a.reduce((total, x, i) => total + x * b[i] * sd[i] ** 2, 0);
    const {first, second} = this;
    return {at: this.at(mean), cov: [weighted(first, first), weighted(first, second), weighted(second, second)]};
  }
}

// The mean density of Gaussians on a grid of side x side places in -reach ... reach.
function density(gaussians, reach, side) {
  const grid = new Float64Array(side * side), step = 2 * reach / (side - 1);
  for (const {at: [u, v], cov: [uu, uv, vv]} of gaussians) {
    const a = uu + step ** 2 / 4, c = vv + step ** 2 / 4; // None is narrower than the grid.
    const det = a * c - uv * uv, scale = 1 / (gaussians.length * 2 * Math.PI * Math.sqrt(det));
    const end = (mean, distance) => clip(Math.round((mean + distance + reach) / step), 0, side - 1);
    const [far, high] = [4 * Math.sqrt(a), 4 * Math.sqrt(c)];
    for (let row = end(v, -high); row <= end(v, high); row++) {
      for (let column = end(u, -far); column <= end(u, far); column++) {
        const du = column * step - reach - u, dv = row * step - reach - v;
        grid[row * side + column] += scale * Math.exp(-(c * du * du - 2 * uv * du * dv + a * dv * dv) / (2 * det));
      }
    }
  }
  return grid;
}

// The density above which a share of the mass on the grid lies.
function levelOf(grid, share) {
  const sorted = Float64Array.from(grid).sort().reverse();
  let left = share * sum(sorted);
  return sorted.find(value => (left -= value) <= 0) ?? 0;
}

// The segments [u, v, u, v] along which a grid has a level, by marching squares.
function contour(grid, reach, side, level) {
  const segments = [], place = x => 2 * reach * x / (side - 1) - reach;
  for (let cell = 0; cell < side * (side - 1); cell++) {
    const column = cell % side, row = Math.floor(cell / side);
    if (column === side - 1) continue;
    const corners = [[0, 0], [1, 0], [1, 1], [0, 1]].map(([x, y]) =>
      [column + x, row + y, grid[cell + y * side + x] - level]);
    const crossings = corners.flatMap(([x, y, value], i) => {
      const [nextX, nextY, next] = corners[(i + 1) % 4];
      if (value < 0 === next < 0) return [];
      const share = value / (value - next);
      return [place(x + share * (nextX - x)), place(y + share * (nextY - y))];
    });
    for (let i = 0; i < crossings.length; i += 4) segments.push(crossings.slice(i, i + 4));
  }
  return segments;
}
