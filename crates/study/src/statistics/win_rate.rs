//! Win rate: the mean of 1 where an answer scores above the other, ½ where both score the same, 0 elsewhere.

use super::mean;

/// What an answer scores against another: 1, ½ or 0.
pub fn win(score: f64, other: f64) -> f64 {
    if score > other {
        1.0
    } else if score == other {
        0.5
    } else {
        0.0
    }
}

/// The win rate of (score, other's score, weight).
pub fn of(rows: impl Iterator<Item = (f64, f64, f64)>) -> Option<f64> {
    mean::of(rows.map(|(a, b, w)| (win(a, b), w)))
}

#[cfg(test)]
mod tests {
    #[test]
    fn ties_are_half() {
        let rows = [(2.0, 1.0, 1.0), (1.0, 1.0, 1.0), (0.0, 1.0, 1.0), (0.0, 1.0, 1.0)];
        assert_eq!(super::of(rows.into_iter()), Some(0.375));
    }
}
