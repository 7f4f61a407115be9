//! Correlation: Pearson's r = Σ w (x−x̄)(y−ȳ) / √(Σ w (x−x̄)² Σ w (y−ȳ)²), and Spearman's ρ, which is r of the ranks, ties
//! having the mean of theirs.

/// Pearson's r of (x, y, weight); none where one of the two does not vary.
pub fn pearson(rows: &[(f64, f64, f64)]) -> Option<f64> {
    let n: f64 = rows.iter().map(|r| r.2).sum();
    let (mx, my) = (rows.iter().map(|r| r.2 * r.0).sum::<f64>() / n, rows.iter().map(|r| r.2 * r.1).sum::<f64>() / n);
    let sum = |f: &dyn Fn(f64, f64) -> f64| rows.iter().map(|r| r.2 * f(r.0 - mx, r.1 - my)).sum::<f64>();
    let (xx, yy, xy) = (sum(&|x, _| x * x), sum(&|_, y| y * y), sum(&|x, y| x * y));
    (n > 0.0 && xx > 1e-12 * n * (1.0 + mx * mx) && yy > 1e-12 * n * (1e-12 + my * my)).then(|| xy / (xx * yy).sqrt())
}

/// Ranks of values that count `weight` times, ties having the mean rank.
fn ranks(values: impl Iterator<Item = (f64, f64)>) -> Vec<f64> {
    let values: Vec<(f64, f64)> = values.collect();
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].0.total_cmp(&values[*b].0));
    let mut ranks = vec![0.0; values.len()];
    let mut below = 0.0;
    for tied in order.chunk_by(|a, b| values[*a].0 == values[*b].0) {
        let weight: f64 = tied.iter().map(|i| values[*i].1).sum();
        tied.iter().for_each(|i| ranks[*i] = below + (weight + 1.0) / 2.0);
        below += weight;
    }
    ranks
}

/// Spearman's ρ of (x, y, weight).
pub fn spearman(rows: &[(f64, f64, f64)]) -> Option<f64> {
    let rows: Vec<_> = rows.iter().copied().filter(|r| r.2 > 0.0).collect();
    let (x, y) = (ranks(rows.iter().map(|r| (r.0, r.2))), ranks(rows.iter().map(|r| (r.1, r.2))));
    let ranked: Vec<_> = x.into_iter().zip(y).zip(&rows).map(|((x, y), r)| (x, y, r.2)).collect();
    pearson(&ranked)
}

#[cfg(test)]
mod tests {
    use super::*;

    const X: [f64; 8] = [3.0, 5.0, 5.0, 8.0, 13.0, 2.0, 9.0, 9.0];
    const Y: [f64; 8] = [0.1, -0.4, 0.3, 0.9, 0.2, -1.0, 1.4, 0.9];

    #[test]
    fn as_numpy_has_it() {
        let rows: Vec<_> = X.iter().zip(Y).map(|(x, y)| (*x, y, 1.0)).collect();
        // numpy.corrcoef(X, Y), and the same of the mean ranks
        assert!((pearson(&rows).unwrap() - 0.6135258977005952).abs() < 1e-12);
        assert!((spearman(&rows).unwrap() - 0.6848610627612816).abs() < 1e-12);
    }

    #[test]
    fn a_weight_is_as_many_rows() {
        let weighed: Vec<_> = X.iter().zip(Y).enumerate().map(|(i, (x, y))| (*x, y, (i % 3) as f64)).collect();
        let repeated: Vec<_> =
            weighed.iter().flat_map(|(x, y, w)| std::iter::repeat_n((*x, *y, 1.0), *w as usize)).collect();
        assert!((pearson(&weighed).unwrap() - pearson(&repeated).unwrap()).abs() < 1e-12);
        assert!((spearman(&weighed).unwrap() - spearman(&repeated).unwrap()).abs() < 1e-12);
    }

    #[test]
    fn what_does_not_vary_has_none() {
        assert_eq!(pearson(&[(1.0, 2.0, 1.0), (1.0, 3.0, 1.0)]), None);
        assert_eq!(spearman(&[(1.0, 2.0, 1.0), (2.0, 2.0, 1.0)]), None);
        assert_eq!(pearson(&[]), None);
    }
}
