//! Mean: Σ wᵢ xᵢ / Σ wᵢ.

/// The mean of (value, weight); none without weight.
pub fn of(rows: impl Iterator<Item = (f64, f64)>) -> Option<f64> {
    let (sum, weight) = rows.fold((0.0, 0.0), |(s, n), (x, w)| (s + w * x, n + w));
    (weight > 0.0).then(|| sum / weight)
}

#[cfg(test)]
mod tests {
    #[test]
    fn weights_count() {
        assert_eq!(super::of([(1.0, 1.0), (4.0, 2.0)].into_iter()), Some(3.0));
        assert_eq!(super::of([(1.0, 0.0)].into_iter()), None);
    }
}
