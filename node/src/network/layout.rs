//! The layout of a picture: linked nodes attract each other, all nodes repel each other, and movements
//! shrink from round to round (Fruchterman and Reingold, "Graph drawing by force-directed placement", 1991).
//! The same nodes and links always give the same picture.

use peerkit_proto::id::NodeId;

use super::neighbours::Neighbours;
use super::pivots;
use super::shapes::{Point, Rect};

/// Most nodes for which every pair repels each other. With more nodes, distant ones repel as groups.
const ONE_BY_ONE: usize = 300;

/// Lays out one connected part around the origin, wider than high. A link without other forces is 1 long.
pub(super) fn lay_out(ids: &[NodeId], neighbours: &Neighbours) -> Vec<Point> {
    let mut places = pivots::place(neighbours);
    // Nodes at the same distances from all pivots start at the same point, so their ids separate them.
    for (place, id) in places.iter_mut().zip(ids) {
        *place += by_id(id);
    }
    let rounds = rounds(places.len());
    // The longest movement in the first round.
    let start = (places.len() as f64).sqrt() / 5.0;
    for round in 0..rounds {
        let heat = start * (1.0 - round as f64 / rounds as f64);
        let forces = forces(&places, neighbours);
        for (place, force) in places.iter_mut().zip(forces) {
            let length = force.length();
            // No node moves further than the heat of this round allows.
            if length > 0.0 {
                *place += force * (heat.min(length) / length);
            }
        }
    }
    lying(places)
}

/// Returns the number of rounds: fewer for many nodes, whose rounds take longer.
fn rounds(nodes: usize) -> usize {
    (300_000 / nodes.max(1)).clamp(100, 500)
}

/// Returns a point in the unit square that depends on an id, by its hash: an attacker could choose similar
/// ids.
fn by_id(id: &NodeId) -> Point {
    let hash = blake3::hash(id.as_bytes());
    let part = |bytes: &[u8]| {
        let number = bytes.iter().fold(0_u32, |number, byte| number << 8 | u32::from(*byte));
        f64::from(number) / f64::from(u32::MAX) - 0.5
    };
    let bytes = hash.as_bytes();
    Point { x: part(&bytes[..4]), y: part(&bytes[4..8]) }
}

/// Returns the force on each node.
fn forces(places: &[Point], neighbours: &Neighbours) -> Vec<Point> {
    let grid = Grid::new(places);
    let force = |(node, place): (usize, &Point)| {
        let mut force = grid.push(places, node);
        // Attraction grows with the square of the distance.
        for other in neighbours.of(node) {
            let way = places[*other] - *place;
            force += way * way.length();
        }
        force
    };
    places.iter().enumerate().map(force).collect()
}

/// The picture divided into squares. A node is repelled by each node in its own and the adjacent squares, and
/// by every other square as if all its nodes were at their centre.
struct Grid {
    corner: Point,
    /// The side of a square.
    side: f64,
    columns: usize,
    rows: usize,
    members: Vec<Vec<usize>>,
    middles: Vec<Point>,
}

impl Grid {
    fn new(places: &[Point]) -> Self {
        let all = Rect::around(places);
        let (corner, size) = (all.least, all.most - all.least);
        // Balances the work: about as many nearby nodes as distant squares, n * 9 / squares = squares.
        let squares = match places.len() {
            0..=ONE_BY_ONE => 1.0,
            n => 3.0 * (n as f64).sqrt(),
        };
        let side = (size.x * size.y / squares).sqrt().max(size.x.max(size.y) / squares).max(1e-6);
        let columns = (size.x / side) as usize + 1;
        let rows = (size.y / side) as usize + 1;
        let mut grid = Self {
            corner,
            side,
            columns,
            rows,
            members: vec![Vec::new(); columns * rows],
            middles: vec![Point::default(); columns * rows],
        };
        for (node, place) in places.iter().enumerate() {
            let (column, row) = grid.square(*place);
            let square = row * columns + column;
            grid.members[square].push(node);
            grid.middles[square] += *place;
        }
        for (middle, members) in grid.middles.iter_mut().zip(&grid.members) {
            *middle = *middle * (1.0 / members.len().max(1) as f64);
        }
        grid
    }

    fn square(&self, place: Point) -> (usize, usize) {
        let from = (place - self.corner) * (1.0 / self.side);
        ((from.x as usize).min(self.columns - 1), (from.y as usize).min(self.rows - 1))
    }

    /// Returns the force with which all others repel `node`.
    fn push(&self, places: &[Point], node: usize) -> Point {
        let place = places[node];
        let (column, row) = self.square(place);
        let mut force = Point::default();
        for (square, members) in self.members.iter().enumerate() {
            let near = (square % self.columns).abs_diff(column) <= 1
                && (square / self.columns).abs_diff(row) <= 1;
            if !near {
                force += pushed(place - self.middles[square]) * members.len() as f64;
                continue;
            }
            for other in members.iter().filter(|other| **other != node) {
                force += pushed(place - places[*other]);
            }
        }
        force
    }
}

/// Returns the repulsion by a node at that distance: the nearer, the stronger.
fn pushed(way: Point) -> Point {
    // Bounded, as two nodes may be at the same point.
    way * (1.0 / way.squared().max(1e-4))
}

/// Moves the points around the origin, and turns them so that their main axis is horizontal.
fn lying(mut places: Vec<Point>) -> Vec<Point> {
    let middle = places.iter().fold(Point::default(), |sum, place| sum + *place);
    let middle = middle * (1.0 / places.len().max(1) as f64);
    let (mut xx, mut xy, mut yy) = (0.0, 0.0, 0.0);
    for place in &mut places {
        *place = *place - middle;
        xx += place.x * place.x;
        xy += place.x * place.y;
        yy += place.y * place.y;
    }
    // The main axis is an eigenvector of the covariance of the points.
    let most = f64::midpoint(xx, yy) + (((xx - yy) / 2.0).powi(2) + xy * xy).sqrt();
    let axis = if xx >= yy { Point { x: most - yy, y: xy } } else { Point { x: xy, y: most - xx } };
    let length = axis.length();
    if length > 1e-9 {
        let axis = axis * (1.0 / length);
        for place in &mut places {
            *place = Point {
                x: place.x * axis.x + place.y * axis.y,
                y: place.y * axis.x - place.x * axis.y,
            };
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::tests::id;

    fn lay_out_all(nodes: u16, links: impl IntoIterator<Item = (usize, usize)>) -> Vec<Point> {
        let ids: Vec<NodeId> = (0..nodes).map(id).collect();
        lay_out(&ids, &Neighbours::new(ids.len(), links))
    }

    /// Returns whether two lines cross between their ends.
    fn cut(a: (Point, Point), b: (Point, Point)) -> bool {
        let side = |line: (Point, Point), point: Point| {
            let (way, to) = (line.1 - line.0, point - line.0);
            way.x * to.y - way.y * to.x
        };
        side(a, b.0) * side(a, b.1) < 0.0 && side(b, a.0) * side(b, a.1) < 0.0
    }

    #[test]
    fn a_ring_and_a_tree_have_no_crossing() {
        let ring: Vec<(usize, usize)> = (0..60).map(|n| (n, (n + 1) % 60)).collect();
        let tree: Vec<(usize, usize)> = (1..40).map(|n| (n, (n - 1) / 3)).collect();
        for (nodes, links) in [(60, ring), (40, tree)] {
            let places = lay_out_all(nodes, links.clone());
            let lines: Vec<_> = links.iter().map(|(a, b)| (places[*a], places[*b])).collect();
            let crossings = lines.iter().flat_map(|a| lines.iter().map(move |b| cut(*a, *b)));
            assert_eq!(crossings.filter(|cut| *cut).count(), 0);
        }
    }

    #[test]
    fn the_same_network_gives_the_same_picture_lying() {
        let links = (1..400).flat_map(|n| [(n, n / 2), (n, n / 7)]);
        let links: Vec<_> = links.filter(|(a, b)| a != b).collect();
        let places = lay_out_all(400, links.clone());
        assert_eq!(places, lay_out_all(400, links));
        let line = lay_out_all(9, (1..9).map(|n| (n - 1, n)));
        let all = Rect::around(&line);
        assert!(all.width() > 4.0 * all.height(), "{all:?}");
    }

    #[test]
    fn no_two_nodes_lie_on_each_other() {
        let star: Vec<(usize, usize)> = (1..40).map(|n| (0, n)).collect();
        let all = (0..12).flat_map(|a| (0..a).map(move |b| (a, b))).collect();
        for (nodes, links) in [(1, Vec::new()), (2, vec![(0, 1)]), (40, star), (12, all)] {
            let places = lay_out_all(nodes, links);
            for (node, place) in places.iter().enumerate() {
                let others = places[..node].iter().map(|other| (*other - *place).length());
                assert!(place.x.is_finite() && others.fold(1.0, f64::min) > 0.1, "{places:?}");
            }
        }
    }
}
