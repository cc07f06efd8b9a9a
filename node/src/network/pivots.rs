//! A rough first layout, made from the distances between nodes in hops. It unfolds the graph as a whole. The
//! algorithm is Pivot MDS (Brandes and Pich, "Eigensolver methods for progressive multidimensional scaling of
//! large data", 2006).

use super::neighbours::{Neighbours, UNREACHED};
use super::shapes::Point;

/// Maximum number of nodes from which distances are measured (the pivots). More than 32 make no visible
/// difference.
const MAX_PIVOTS: usize = 32;

/// Number of rounds of the power iteration. 50 are enough, as the first layout need not be exact.
const ROUNDS: usize = 50;

/// Returns a position for each node of one part, around the origin. The unit is one hop. Nodes with the same
/// distances to all pivots get the same position.
pub(super) fn first_layout(neighbours: &Neighbours) -> Vec<Point> {
    let centred = centred(squared_distances(neighbours));
    let products: Vec<Vec<f64>> =
        centred.iter().map(|a| centred.iter().map(|b| dot(a, b)).collect()).collect();
    let (first, first_value) = main_direction(&products, None);
    let (second, second_value) = main_direction(&products, Some((&first, first_value)));
    // The pivots are a sample of the nodes. With all nodes as pivots the eigenvalues would be larger by this
    // factor.
    let sample_factor = (neighbours.len() as f64 / centred.len().max(1) as f64).sqrt();
    let along = |direction: &[f64], value: f64, node: usize| {
        let stretch = value.sqrt();
        let sum: f64 = centred.iter().zip(direction).map(|(row, part)| row[node] * part).sum();
        if stretch > 0.0 { sum / stretch * (stretch * sample_factor).sqrt() } else { 0.0 }
    };
    let node =
        |node| Point { x: along(&first, first_value, node), y: along(&second, second_value, node) };
    (0..neighbours.len()).map(node).collect()
}

/// Returns the squares of the distances from each pivot to all nodes. Each pivot is the node that is farthest
/// from the pivots before it.
fn squared_distances(neighbours: &Neighbours) -> Vec<Vec<f64>> {
    let mut nearest = vec![UNREACHED; neighbours.len()];
    let mut pivot = 0;
    let mut distances = Vec::new();
    for _ in 0..MAX_PIVOTS.min(neighbours.len()) {
        let mut hops = vec![UNREACHED; neighbours.len()];
        neighbours.walk(pivot, &mut hops);
        for (nearest, hops) in nearest.iter_mut().zip(&hops) {
            *nearest = (*nearest).min(*hops);
        }
        distances.push(hops.into_iter().map(|hops| (hops as f64).powi(2)).collect());
        // Pivots that are far from each other cover the graph best.
        let farthest = (0..neighbours.len()).max_by_key(|node| nearest[*node]);
        pivot = farthest.unwrap_or_default();
    }
    distances
}

/// Subtracts the means of rows and columns from the squared distances (double centring). After that, the
/// matrix contains scalar products of positions.
fn centred(mut squares: Vec<Vec<f64>>) -> Vec<Vec<f64>> {
    let mean = |row: &[f64]| row.iter().sum::<f64>() / row.len().max(1) as f64;
    let rows: Vec<f64> = squares.iter().map(|row| mean(row)).collect();
    let all = mean(&rows);
    let nodes = squares.first().map_or(0, Vec::len);
    let columns: Vec<f64> = (0..nodes)
        .map(|node| squares.iter().map(|row| row[node]).sum::<f64>() / squares.len() as f64)
        .collect();
    for (row, row_mean) in squares.iter_mut().zip(rows) {
        for (square, column_mean) in row.iter_mut().zip(&columns) {
            *square = (*square - row_mean - column_mean + all) / -2.0;
        }
    }
    squares
}

/// Returns the eigenvector of a symmetric matrix that has the largest eigenvalue, and that eigenvalue. If
/// `known` is given, leaves out that eigenvector, so that the next one is found.
fn main_direction(matrix: &[Vec<f64>], known: Option<(&[f64], f64)>) -> (Vec<f64>, f64) {
    // The iteration can start with any vector that is not orthogonal to the result.
    let mut direction: Vec<f64> = (0..matrix.len()).map(|n| 1.0 / (n as f64 + 1.0)).collect();
    let mut value = 0.0;
    for _ in 0..ROUNDS {
        let known = known.map(|(known, value)| (known, value * dot(known, &direction)));
        let mut next: Vec<f64> = matrix.iter().map(|row| dot(row, &direction)).collect();
        // Removes the component along the known eigenvector, so that the iteration finds the next one.
        if let Some((known, part)) = known {
            for (next, known) in next.iter_mut().zip(known) {
                *next -= part * known;
            }
        }
        value = dot(&next, &next).sqrt();
        // No other direction is left: all nodes lie on one line or on one point.
        if value < 1e-9 {
            return (direction, 0.0);
        }
        direction = next.into_iter().map(|part| part / value).collect();
    }
    (direction, value)
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_laid_out_straight_and_in_order() {
        let neighbours = Neighbours::new(6, (1..6).map(|node| (node - 1, node)));
        let points = first_layout(&neighbours);
        let steps: Vec<f64> = points.windows(2).map(|pair| pair[1].x - pair[0].x).collect();
        assert!(steps.iter().all(|step| (step.abs() - 1.0).abs() < 0.01), "{steps:?}");
        assert!(steps.iter().all(|step| step.signum() == steps[0].signum()), "{steps:?}");
        assert!(points.iter().all(|point| point.y.abs() < 0.01), "{points:?}");
    }

    #[test]
    fn layouts_of_few_nodes_and_of_equal_nodes_are_finite() {
        assert_eq!(first_layout(&Neighbours::new(1, [])), [Point { x: 0.0, y: 0.0 }]);
        for n in 2..5 {
            let all = (0..n).flat_map(|a| (0..a).map(move |b| (a, b)));
            let points = first_layout(&Neighbours::new(n, all));
            assert!(points.iter().all(|point| point.x.is_finite() && point.y.is_finite()));
        }
    }
}
