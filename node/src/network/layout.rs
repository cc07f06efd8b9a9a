//! The force-directed layout of a picture. Linked nodes attract each other and all nodes repel each other. In
//! each round, nodes may move less far than in the round before (Fruchterman and Reingold, "Graph drawing by
//! force-directed placement", 1991). The same nodes and links always give the same picture.

use peerkit_proto::id::NodeId;

use super::neighbours::Neighbours;
use super::pivots;
use super::shapes::{Point, Rect};

/// Maximum number of nodes for which the repulsion of each pair is computed. With more nodes, distant ones
/// repel as groups.
const MAX_NODES_IN_PAIRS: usize = 300;

/// Lays out one connected part around the origin, with its longest axis horizontal. In the unit of length
/// used here, two nodes with nothing but a link between them end up at the distance 1.
pub(super) fn lay_out(ids: &[NodeId], neighbours: &Neighbours) -> Vec<Point> {
    let mut positions = pivots::first_layout(neighbours);
    // Nodes with equal distances to all pivots have the same point so far. An offset made from the id
    // separates them.
    for (position, id) in positions.iter_mut().zip(ids) {
        *position += offset_from_id(id);
    }
    let rounds = rounds(positions.len());
    // The maximum length of a movement in the first round.
    let first_heat = (positions.len() as f64).sqrt() / 5.0;
    for round in 0..rounds {
        let heat = first_heat * (1.0 - round as f64 / rounds as f64);
        let forces = forces(&positions, neighbours);
        for (position, force) in positions.iter_mut().zip(forces) {
            let length = force.length();
            // The heat limits the length of each movement in this round.
            if length > 0.0 {
                *position += force * (heat.min(length) / length);
            }
        }
    }
    turned_to_main_axis(positions)
}

/// Returns the number of rounds. With more nodes a round takes longer, so there are fewer rounds.
fn rounds(nodes: usize) -> usize {
    (300_000 / nodes.max(1)).clamp(100, 500)
}

/// Returns a point in the unit square around the origin, made from the hash of an id. Without the hash, an
/// attacker could choose ids that give nearly the same point.
fn offset_from_id(id: &NodeId) -> Point {
    let hash = blake3::hash(id.as_bytes());
    let coordinate = |bytes: &[u8]| {
        let number = bytes.iter().fold(0_u32, |number, byte| number << 8 | u32::from(*byte));
        f64::from(number) / f64::from(u32::MAX) - 0.5
    };
    let bytes = hash.as_bytes();
    Point { x: coordinate(&bytes[..4]), y: coordinate(&bytes[4..8]) }
}

/// Returns the force on each node.
fn forces(positions: &[Point], neighbours: &Neighbours) -> Vec<Point> {
    let grid = Grid::new(positions);
    let force = |(node, position): (usize, &Point)| {
        let mut force = grid.repulsion_on(positions, node);
        // Attraction grows with the square of the distance.
        for other in neighbours.of(node) {
            let to_other = positions[*other] - *position;
            force += to_other * to_other.length();
        }
        force
    };
    positions.iter().enumerate().map(force).collect()
}

/// The picture divided into squares, which makes the repulsion cheap to compute. Each node in the same square
/// or an adjacent one repels a node individually. Every other square repels it as if all nodes of that square
/// were at their common centre.
struct Grid {
    top_left: Point,
    /// The length of a square's side.
    side: f64,
    columns: usize,
    rows: usize,
    /// The nodes in each square.
    members: Vec<Vec<usize>>,
    /// The mean position of the nodes in each square.
    centres: Vec<Point>,
}

impl Grid {
    fn new(positions: &[Point]) -> Self {
        let all = Rect::bounding(positions);
        let (top_left, size) = (all.top_left, all.bottom_right - all.top_left);
        // The work for a node is smallest if there are about as many nodes nearby as distant squares:
        // n * 9 / squares = squares.
        let squares = match positions.len() {
            0..=MAX_NODES_IN_PAIRS => 1.0,
            n => 3.0 * (n as f64).sqrt(),
        };
        let side = (size.x * size.y / squares).sqrt().max(size.x.max(size.y) / squares).max(1e-6);
        let columns = (size.x / side) as usize + 1;
        let rows = (size.y / side) as usize + 1;
        let mut grid = Self {
            top_left,
            side,
            columns,
            rows,
            members: vec![Vec::new(); columns * rows],
            centres: vec![Point::default(); columns * rows],
        };
        for (node, position) in positions.iter().enumerate() {
            let (column, row) = grid.square(*position);
            let square = row * columns + column;
            grid.members[square].push(node);
            grid.centres[square] += *position;
        }
        for (centre, members) in grid.centres.iter_mut().zip(&grid.members) {
            *centre = *centre * (1.0 / members.len().max(1) as f64);
        }
        grid
    }

    /// Returns the column and the row of the square that contains a position.
    fn square(&self, position: Point) -> (usize, usize) {
        let offset = (position - self.top_left) * (1.0 / self.side);
        ((offset.x as usize).min(self.columns - 1), (offset.y as usize).min(self.rows - 1))
    }

    /// Returns the force with which all other nodes repel `node`.
    fn repulsion_on(&self, positions: &[Point], node: usize) -> Point {
        let position = positions[node];
        let (column, row) = self.square(position);
        let mut force = Point::default();
        for (square, members) in self.members.iter().enumerate() {
            let near = (square % self.columns).abs_diff(column) <= 1
                && (square / self.columns).abs_diff(row) <= 1;
            if !near {
                force += repulsion(position - self.centres[square]) * members.len() as f64;
                continue;
            }
            for other in members.iter().filter(|other| **other != node) {
                force += repulsion(position - positions[*other]);
            }
        }
        force
    }
}

/// Returns the repulsion along the vector from another node: the shorter the vector, the stronger.
fn repulsion(from_other: Point) -> Point {
    // The divisor has a minimum, because two nodes may be at the same point.
    from_other * (1.0 / from_other.squared().max(1e-4))
}

/// Centres the points on the origin, and turns them so that their main axis is horizontal.
fn turned_to_main_axis(mut positions: Vec<Point>) -> Vec<Point> {
    let centre = positions.iter().fold(Point::default(), |sum, position| sum + *position);
    let centre = centre * (1.0 / positions.len().max(1) as f64);
    let (mut xx, mut xy, mut yy) = (0.0, 0.0, 0.0);
    for position in &mut positions {
        *position = *position - centre;
        xx += position.x * position.x;
        xy += position.x * position.y;
        yy += position.y * position.y;
    }
    // The main axis is an eigenvector of the covariance of the points.
    let eigenvalue = f64::midpoint(xx, yy) + (((xx - yy) / 2.0).powi(2) + xy * xy).sqrt();
    let axis = if xx >= yy {
        Point { x: eigenvalue - yy, y: xy }
    } else {
        Point { x: xy, y: eigenvalue - xx }
    };
    let length = axis.length();
    if length > 1e-9 {
        let axis = axis * (1.0 / length);
        for position in &mut positions {
            *position = Point {
                x: position.x * axis.x + position.y * axis.y,
                y: position.y * axis.x - position.x * axis.y,
            };
        }
    }
    positions
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
    fn do_cross(a: (Point, Point), b: (Point, Point)) -> bool {
        let side = |line: (Point, Point), point: Point| {
            let (along, to_point) = (line.1 - line.0, point - line.0);
            along.x * to_point.y - along.y * to_point.x
        };
        side(a, b.0) * side(a, b.1) < 0.0 && side(b, a.0) * side(b, a.1) < 0.0
    }

    #[test]
    fn the_links_of_a_ring_and_of_a_tree_do_not_cross() {
        let ring: Vec<(usize, usize)> = (0..60).map(|n| (n, (n + 1) % 60)).collect();
        let tree: Vec<(usize, usize)> = (1..40).map(|n| (n, (n - 1) / 3)).collect();
        for (nodes, links) in [(60, ring), (40, tree)] {
            let positions = lay_out_all(nodes, links.clone());
            let lines: Vec<_> = links.iter().map(|(a, b)| (positions[*a], positions[*b])).collect();
            let crossings = lines.iter().flat_map(|a| lines.iter().map(move |b| do_cross(*a, *b)));
            assert_eq!(crossings.filter(|crosses| *crosses).count(), 0);
        }
    }

    #[test]
    fn the_same_network_gives_the_same_picture_with_a_horizontal_main_axis() {
        let links = (1..400).flat_map(|n| [(n, n / 2), (n, n / 7)]);
        let links: Vec<_> = links.filter(|(a, b)| a != b).collect();
        let positions = lay_out_all(400, links.clone());
        assert_eq!(positions, lay_out_all(400, links));
        let line = lay_out_all(9, (1..9).map(|n| (n - 1, n)));
        let all = Rect::bounding(&line);
        assert!(all.width() > 4.0 * all.height(), "{all:?}");
    }

    #[test]
    fn nodes_keep_a_distance_from_each_other() {
        let star: Vec<(usize, usize)> = (1..40).map(|n| (0, n)).collect();
        let all = (0..12).flat_map(|a| (0..a).map(move |b| (a, b))).collect();
        for (nodes, links) in [(1, Vec::new()), (2, vec![(0, 1)]), (40, star), (12, all)] {
            let positions = lay_out_all(nodes, links);
            for (node, position) in positions.iter().enumerate() {
                let others = positions[..node].iter().map(|other| (*other - *position).length());
                assert!(
                    position.x.is_finite() && others.fold(1.0, f64::min) > 0.1,
                    "{positions:?}"
                );
            }
        }
    }
}
