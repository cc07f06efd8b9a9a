//! Points and rectangles of a picture.

use std::ops::{Add, AddAssign, Mul, Sub};

/// A point, or the vector from one point to another.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Point {
    pub(super) x: f64,
    /// Grows downwards.
    pub(super) y: f64,
}

/// A rectangle, by its upper left and its lower right corner.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Rect {
    pub(super) top_left: Point,
    pub(super) bottom_right: Point,
}

impl Rect {
    /// Returns the smallest rectangle that contains all `points`.
    pub(super) fn bounding(points: &[Point]) -> Self {
        let first = points.first().copied().unwrap_or_default();
        let start = Self { top_left: first, bottom_right: first };
        points
            .iter()
            .fold(start, |all, point| all.union(Self { top_left: *point, bottom_right: *point }))
    }

    /// Returns the rectangle of this width and height whose centre is `centre`.
    pub(super) fn centred_at(centre: Point, width: f64, height: f64) -> Self {
        let half = Point { x: width / 2.0, y: height / 2.0 };
        Self { top_left: centre - half, bottom_right: centre + half }
    }

    /// Returns the smallest rectangle that contains both rectangles.
    pub(super) fn union(self, other: Self) -> Self {
        let top_left = Point {
            x: self.top_left.x.min(other.top_left.x),
            y: self.top_left.y.min(other.top_left.y),
        };
        let bottom_right = Point {
            x: self.bottom_right.x.max(other.bottom_right.x),
            y: self.bottom_right.y.max(other.bottom_right.y),
        };
        Self { top_left, bottom_right }
    }

    /// Returns the rectangle moved by a vector.
    pub(super) fn moved(self, shift: Point) -> Self {
        Self { top_left: self.top_left + shift, bottom_right: self.bottom_right + shift }
    }

    /// Returns the rectangle enlarged by `margin` on every side.
    pub(super) fn padded(self, margin: f64) -> Self {
        let margin = Point { x: margin, y: margin };
        Self { top_left: self.top_left - margin, bottom_right: self.bottom_right + margin }
    }

    pub(super) fn width(self) -> f64 {
        self.bottom_right.x - self.top_left.x
    }

    pub(super) fn height(self) -> f64 {
        self.bottom_right.y - self.top_left.y
    }

    /// Returns the area of the overlap of both rectangles; 0 if they do not overlap.
    pub(super) fn overlap(self, other: Self) -> f64 {
        let width =
            self.bottom_right.x.min(other.bottom_right.x) - self.top_left.x.max(other.top_left.x);
        let height =
            self.bottom_right.y.min(other.bottom_right.y) - self.top_left.y.max(other.top_left.y);
        width.max(0.0) * height.max(0.0)
    }

    /// Returns whether the line between two points crosses the rectangle (Liang and Barsky's clipping).
    pub(super) fn is_crossed(self, from: Point, to: Point) -> bool {
        // A point of the line is `from + t * along`, with `t` from 0 to 1. The points with `t` between
        // `enters` and `leaves` are inside the rectangle.
        let along = to - from;
        let (mut enters, mut leaves) = (0.0_f64, 1.0_f64);
        let sides = [
            (-along.x, from.x - self.top_left.x),
            (along.x, self.bottom_right.x - from.x),
            (-along.y, from.y - self.top_left.y),
            (along.y, self.bottom_right.y - from.y),
        ];
        for (speed, distance) in sides {
            // The line is parallel to this side of the rectangle: either all of it is outside, or this side
            // does not limit it.
            if speed == 0.0 {
                if distance < 0.0 {
                    return false;
                }
            } else if speed < 0.0 {
                enters = enters.max(distance / speed);
            } else {
                leaves = leaves.min(distance / speed);
            }
        }
        enters < leaves
    }
}

impl Point {
    pub(super) fn length(self) -> f64 {
        self.squared().sqrt()
    }

    /// Returns the square of the length.
    pub(super) fn squared(self) -> f64 {
        self.x * self.x + self.y * self.y
    }
}

impl Add for Point {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { x: self.x + other.x, y: self.y + other.y }
    }
}

impl AddAssign for Point {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sub for Point {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self { x: self.x - other.x, y: self.y - other.y }
    }
}

impl Mul<f64> for Point {
    type Output = Self;

    fn mul(self, factor: f64) -> Self {
        Self { x: self.x * factor, y: self.y * factor }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_crosses_a_rectangle_only_if_it_enters_it() {
        let rect = Rect::centred_at(Point::default(), 4.0, 2.0);
        let crossed = |a: (f64, f64), b: (f64, f64)| {
            rect.is_crossed(Point { x: a.0, y: a.1 }, Point { x: b.0, y: b.1 })
        };
        assert!(crossed((-9.0, 0.0), (9.0, 0.0)) && crossed((0.0, -9.0), (0.0, 9.0)));
        assert!(crossed((-9.0, -3.0), (9.0, 3.0)) && crossed((0.0, 0.0), (9.0, 9.0)));
        assert!(!crossed((-9.0, 2.0), (9.0, 2.0)) && !crossed((3.0, 0.0), (9.0, 0.0)));
        assert!(!crossed((-4.0, 0.0), (0.0, 4.0)));
    }

    #[test]
    fn overlap_and_union_have_these_sizes() {
        let rect = Rect::centred_at(Point::default(), 4.0, 2.0);
        assert_eq!(rect.overlap(rect.moved(Point { x: 3.0, y: 1.0 })), 1.0);
        assert_eq!(rect.overlap(rect.moved(Point { x: 5.0, y: 0.0 })), 0.0);
        assert_eq!(rect.padded(1.0).union(rect).width(), 6.0);
    }
}
