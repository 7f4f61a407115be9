//! Curves over KL: (KL, y) of the settings along β, sorted by KL, straight between neighbours. Two curves are compared where
//! both have points: at the KLs of [`matched`], by the mean of the differences there.

/// A point of a curve.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Point {
    /// KL(π‖μ), nats.
    pub kl: f64,
    /// Length or score.
    pub y: f64,
}

/// Points sorted by KL.
#[derive(Clone, Debug, PartialEq)]
pub struct Curve(Vec<Point>);

/// KLs at which two curves are compared.
pub const MATCHED: usize = 5;

impl Curve {
    /// Sorts the points.
    pub fn new(mut points: Vec<Point>) -> Self {
        points.sort_by(|a, b| a.kl.total_cmp(&b.kl));
        Self(points)
    }

    /// The points.
    pub fn points(&self) -> &[Point] {
        &self.0
    }

    /// From the least to the greatest KL.
    pub fn range(&self) -> Option<(f64, f64)> {
        Some((self.0.first()?.kl, self.0.last()?.kl))
    }

    /// The value at a KL; none outside of the points.
    pub fn at(&self, kl: f64) -> Option<f64> {
        let next = self.0.partition_point(|p| p.kl < kl);
        let after = self.0.get(next)?;
        if after.kl == kl {
            return Some(after.y);
        }
        let before = self.0.get(next.checked_sub(1)?)?;
        Some(before.y + (after.y - before.y) * (kl - before.kl) / (after.kl - before.kl))
    }
}

/// Evenly spaced KLs from end to end of what both curves reach; none where they reach no KL in common.
pub fn matched(a: &Curve, b: &Curve) -> Vec<f64> {
    let (Some((a0, a1)), Some((b0, b1))) = (a.range(), b.range()) else { return Vec::new() };
    let (from, to) = (a0.max(b0), a1.min(b1));
    match from < to {
        // By parts, so that the ends are met to the bit.
        true => (0..MATCHED)
            .map(|i| i as f64 / (MATCHED - 1) as f64)
            .map(|t| if t == 1.0 { to } else { from + t * (to - from) })
            .collect(),
        false => Vec::new(),
    }
}

/// The mean of a − b over those of `kls` that both curves reach; none if they are fewer than half.
pub fn difference(a: &Curve, b: &Curve, kls: &[f64]) -> Option<f64> {
    let apart: Vec<f64> = kls.iter().filter_map(|kl| Some(a.at(*kl)? - b.at(*kl)?)).collect();
    (2 * apart.len() >= kls.len() && !apart.is_empty()).then(|| apart.iter().sum::<f64>() / apart.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(points: &[(f64, f64)]) -> Curve {
        Curve::new(points.iter().map(|(kl, y)| Point { kl: *kl, y: *y }).collect())
    }

    #[test]
    fn straight_between_points_and_nothing_beyond() {
        let c = curve(&[(4.0, 20.0), (1.0, 10.0), (2.0, 12.0)]);
        // numpy.interp
        assert_eq!((c.at(1.0), c.at(1.5), c.at(3.0), c.at(4.0)), (Some(10.0), Some(11.0), Some(16.0), Some(20.0)));
        assert_eq!((c.at(0.5), c.at(4.5)), (None, None));
    }

    #[test]
    fn compared_where_both_are() {
        let (a, b) = (curve(&[(0.0, 0.0), (4.0, 8.0)]), curve(&[(2.0, 1.0), (6.0, 3.0)]));
        let kls = matched(&a, &b);
        assert_eq!(kls, [2.0, 2.5, 3.0, 3.5, 4.0]);
        // a − b = 2 kl − kl/2, at 3 in the mean
        assert_eq!(difference(&a, &b, &kls), Some(4.5));
        assert!(matched(&a, &curve(&[(5.0, 0.0), (6.0, 0.0)])).is_empty());
        assert_eq!(difference(&a, &b, &[]), None);
    }
}
