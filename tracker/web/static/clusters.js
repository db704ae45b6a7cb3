/** Which vehicles stand near each other: far-apart fleets can be visited one by one. Pure. */

import { latOf, lonOf } from "./mercator.js";

/** Vehicles in the same or in touching cells of this size are one cluster. */
const CELL_DEG = 1.5;

/** @typedef {import("./camera.js").Bounds} Bounds */
/** @typedef {{size: number, bounds: Bounds}} Cluster */

/**
 * @param {Iterable<{x: number, y: number, located: boolean}>} vehicles
 * @returns {Cluster[]} the largest first
 */
export function clustersOf(vehicles) {
  /** @type {Map<string, {column: number, row: number, cluster: Cluster}>} */
  const cells = new Map();
  for (const vehicle of vehicles) {
    if (!vehicle.located) continue;
    const column = Math.floor(lonOf(vehicle.x) / CELL_DEG);
    const row = Math.floor(latOf(vehicle.y) / CELL_DEG);
    const key = `${column} ${row}`;
    const point = { left: vehicle.x, right: vehicle.x, top: vehicle.y, bottom: vehicle.y };
    const cell = cells.get(key);
    if (cell) grow(cell.cluster, { size: 1, bounds: point });
    else cells.set(key, { column, row, cluster: { size: 1, bounds: point } });
  }
  const clusters = [];
  for (const [key, first] of cells) {
    cells.delete(key);
    const waiting = [first];
    for (const { column, row, cluster } of waiting) {
      if (cluster !== first.cluster) grow(first.cluster, cluster);
      for (const dx of [-1, 0, 1]) {
        for (const dy of [-1, 0, 1]) {
          const neighbour = `${column + dx} ${row + dy}`;
          const cell = cells.get(neighbour);
          if (cell) waiting.push(cell);
          cells.delete(neighbour);
        }
      }
    }
    clusters.push(first.cluster);
  }
  return clusters.sort((a, b) => b.size - a.size);
}

/** @param {Cluster[]} clusters @returns {Bounds|null} around all of them */
export function boundsOf(clusters) {
  if (clusters.length === 0) return null;
  const all = { size: 0, bounds: { ...clusters[0].bounds } };
  for (const cluster of clusters) grow(all, cluster);
  return all.bounds;
}

/** @param {Cluster} cluster @param {Cluster} other */
function grow(cluster, other) {
  const [a, b] = [cluster.bounds, other.bounds];
  cluster.size += other.size;
  a.left = Math.min(a.left, b.left);
  a.top = Math.min(a.top, b.top);
  a.right = Math.max(a.right, b.right);
  a.bottom = Math.max(a.bottom, b.bottom);
}
