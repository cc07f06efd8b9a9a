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
    pub(super) least: Point,
    pub(super) most: Point,
}

impl Rect {
    /// Returns the smallest rectangle around all these points.
    pub(super) fn around(places: &[Point]) -> Self {
        let first = places.first().copied().unwrap_or_default();
        let start = Self { least: first, most: first };
        places.iter().fold(start, |all, place| all.with(Self { least: *place, most: *place }))
    }

    /// Returns the rectangle of that width and height around `middle`.
    pub(super) fn about(middle: Point, width: f64, height: f64) -> Self {
        let half = Point { x: width / 2.0, y: height / 2.0 };
        Self { least: middle - half, most: middle + half }
    }

    /// Returns the smallest rectangle around both.
    pub(super) fn with(self, other: Self) -> Self {
        let least =
            Point { x: self.least.x.min(other.least.x), y: self.least.y.min(other.least.y) };
        let most = Point { x: self.most.x.max(other.most.x), y: self.most.y.max(other.most.y) };
        Self { least, most }
    }

    /// Returns the rectangle moved by a vector.
    pub(super) fn moved(self, way: Point) -> Self {
        Self { least: self.least + way, most: self.most + way }
    }

    /// Returns the rectangle enlarged by `margin` on every side.
    pub(super) fn padded(self, margin: f64) -> Self {
        let margin = Point { x: margin, y: margin };
        Self { least: self.least - margin, most: self.most + margin }
    }

    pub(super) fn width(self) -> f64 {
        self.most.x - self.least.x
    }

    pub(super) fn height(self) -> f64 {
        self.most.y - self.least.y
    }

    /// Returns the area that both cover.
    pub(super) fn overlap(self, other: Self) -> f64 {
        let width = self.most.x.min(other.most.x) - self.least.x.max(other.least.x);
        let height = self.most.y.min(other.most.y) - self.least.y.max(other.least.y);
        width.max(0.0) * height.max(0.0)
    }

    /// Returns whether the line between two points crosses the rectangle (Liang and Barsky's clipping).
    pub(super) fn is_crossed(self, from: Point, to: Point) -> bool {
        let way = to - from;
        let (mut enters, mut leaves) = (0.0_f64, 1.0_f64);
        let sides = [
            (-way.x, from.x - self.least.x),
            (way.x, self.most.x - from.x),
            (-way.y, from.y - self.least.y),
            (way.y, self.most.y - from.y),
        ];
        for (speed, distance) in sides {
            // Parallel to this side, so the line is on one side of it all the way.
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
    fn lines_cross_a_rectangle_or_miss_it() {
        let rect = Rect::about(Point::default(), 4.0, 2.0);
        let crossed = |a: (f64, f64), b: (f64, f64)| {
            rect.is_crossed(Point { x: a.0, y: a.1 }, Point { x: b.0, y: b.1 })
        };
        assert!(crossed((-9.0, 0.0), (9.0, 0.0)) && crossed((0.0, -9.0), (0.0, 9.0)));
        assert!(crossed((-9.0, -3.0), (9.0, 3.0)) && crossed((0.0, 0.0), (9.0, 9.0)));
        assert!(!crossed((-9.0, 2.0), (9.0, 2.0)) && !crossed((3.0, 0.0), (9.0, 0.0)));
        assert!(!crossed((-4.0, 0.0), (0.0, 4.0)));
    }

    #[test]
    fn rectangles_overlap_by_an_area() {
        let rect = Rect::about(Point::default(), 4.0, 2.0);
        assert_eq!(rect.overlap(rect.moved(Point { x: 3.0, y: 1.0 })), 1.0);
        assert_eq!(rect.overlap(rect.moved(Point { x: 5.0, y: 0.0 })), 0.0);
        assert_eq!(rect.padded(1.0).with(rect).width(), 6.0);
    }
}
