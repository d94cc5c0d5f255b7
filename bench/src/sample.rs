//! Many measurements of one thing.

use std::time::Duration;

/// The middle one.
pub fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

/// The time below which this part of them is, in milliseconds.
pub fn percentile(times: &[Duration], part: f64) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let index = ((sorted.len() as f64 * part) as usize).min(sorted.len() - 1);
    sorted[index].as_secs_f64() * 1e3
}

/// A time in microseconds.
pub fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_them_are_below_the_median_and_one_of_a_hundred_above_the_last_percentile() {
        assert!((median(vec![9.0, 1.0, 5.0]) - 5.0).abs() < 1e-9);
        let times: Vec<Duration> = (1..=100).map(Duration::from_millis).collect();
        assert!((percentile(&times, 0.5) - 51.0).abs() < 1e-9);
        assert!((percentile(&times, 0.99) - 100.0).abs() < 1e-9);
    }
}
