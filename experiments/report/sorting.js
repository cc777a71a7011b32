// Sorts the rows of a table by the column whose heading is clicked.
'use strict';

for (const table of document.querySelectorAll('table.sortable')) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => heading.firstElementChild.addEventListener('click', () => {
    const ascending = heading.getAttribute('aria-sort') !== 'ascending';
    for (const other of headings) other.removeAttribute('aria-sort');
    heading.setAttribute('aria-sort', ascending ? 'ascending' : 'descending');
    const compare = (a, b) => {
      const [left, right] = [a, b].map(row => row.cells[column]);
      const [x, y] = [left, right].map(cell => Number(cell.dataset.value ?? (cell.textContent.trim() || NaN)));
      if (isNaN(x) && isNaN(y)) {
        return (ascending ? 1 : -1) * left.textContent.localeCompare(right.textContent);
      }
      // Texts come after numbers in both directions.
      if (isNaN(x) || isNaN(y)) return isNaN(x) - isNaN(y);
      return ascending ? x - y : y - x;
    };
    table.tBodies[0].append(...[...table.tBodies[0].rows].sort(compare));
  }));
}
