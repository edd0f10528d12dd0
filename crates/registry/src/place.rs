//! Places on Earth, and how near they are to each other. Only additions, multiplications, divisions and square roots,
//! which every machine does alike: of two nodes none may put two results into another order than the other.

use std::f64::consts::{FRAC_PI_2, PI};

use serde::{Deserialize, Serialize};

/// The whole, in thousandths.
pub(crate) const PERMILLE: u32 = 1_000;

/// How near those are that are as far away as this or farther.
const FAR_PERMILLE: f64 = 200.0;
/// A quarter of the way around.
const FAR_KM: f64 = 10_000.0;
const EARTH_RADIUS_KM: f64 = 6_371.0;
const MICRO: f64 = 1e6;

/// Latitude and longitude in millionths of a degree, some ten centimetres.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coordinates {
    latitude_micro: i32,
    longitude_micro: i32,
}

/// There is no such place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("latitude must be from -90 to 90 and longitude from -180 to 180")]
pub struct CoordinatesError;

impl Coordinates {
    pub fn from_micro_degrees([latitude_micro, longitude_micro]: [i32; 2]) -> Result<Self, CoordinatesError> {
        let within = latitude_micro.unsigned_abs() <= 90_000_000 && longitude_micro.unsigned_abs() <= 180_000_000;
        if within { Ok(Self { latitude_micro, longitude_micro }) } else { Err(CoordinatesError) }
    }

    /// Rounded to the next millionth of a degree.
    pub fn from_degrees([latitude, longitude]: [f64; 2]) -> Result<Self, CoordinatesError> {
        if !(-90.0..=90.0).contains(&latitude) || !(-180.0..=180.0).contains(&longitude) {
            return Err(CoordinatesError);
        }
        let micro = |degrees: f64| (degrees * MICRO).round() as i32;
        Self::from_micro_degrees([micro(latitude), micro(longitude)])
    }

    /// Latitude and longitude.
    pub fn micro_degrees(self) -> [i32; 2] {
        [self.latitude_micro, self.longitude_micro]
    }

    /// Latitude and longitude.
    pub fn degrees(self) -> [f64; 2] {
        self.micro_degrees().map(|micro| f64::from(micro) / MICRO)
    }
}

/// How near two places are, in thousandths: the whole at no distance, falling evenly to a fifth at 10,000 km and beyond.
pub(crate) fn nearness(a: Coordinates, b: Coordinates) -> u32 {
    let far = (distance_km(a, b) / FAR_KM).min(1.0);
    (f64::from(PERMILLE) - far * (f64::from(PERMILLE) - FAR_PERMILLE)).round() as u32
}

/// Along the surface of a sphere, by the haversine formula.
fn distance_km(a: Coordinates, b: Coordinates) -> f64 {
    let [[latitude_a, longitude_a], [latitude_b, longitude_b]] =
        [a, b].map(|place| place.degrees().map(|degrees| degrees * PI / 180.0));
    let half = |from: f64, to: f64| sine((to - from) / 2.0);
    let (by_latitude, by_longitude) = (half(latitude_a, latitude_b), half(longitude_a, longitude_b));
    let cosines = sine(FRAC_PI_2 - latitude_a) * sine(FRAC_PI_2 - latitude_b);
    let haversine = by_latitude * by_latitude + cosines * by_longitude * by_longitude;
    2.0 * EARTH_RADIUS_KM * arc_sine(haversine.clamp(0.0, 1.0).sqrt())
}

/// Of an angle from -π to π.
fn sine(angle: f64) -> f64 {
    let folded = if angle > FRAC_PI_2 {
        PI - angle
    } else if angle < -FRAC_PI_2 {
        -PI - angle
    } else {
        angle
    };
    let (square, mut term, mut sum) = (folded * folded, folded, folded);
    for n in 1..=10u8 {
        let n = f64::from(n);
        term *= -square / (2.0 * n * (2.0 * n + 1.0));
        sum += term;
    }
    sum
}

/// Of a number from 0 to 1.
fn arc_sine(x: f64) -> f64 {
    if x > 0.5 {
        return FRAC_PI_2 - 2.0 * arc_sine(((1.0 - x) / 2.0).sqrt());
    }
    let (square, mut power, mut sum) = (x * x, x, x);
    for n in 1..=20u8 {
        let n = f64::from(n);
        power *= square * (2.0 * n - 1.0) / (2.0 * n);
        sum += power / (2.0 * n + 1.0);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(latitude: f64, longitude: f64) -> Coordinates {
        Coordinates::from_degrees([latitude, longitude]).unwrap()
    }

    #[test]
    fn distances_are_those_of_the_atlas() {
        let (berlin, paris, sydney) = (at(52.52, 13.405), at(48.8566, 2.3522), at(-33.8688, 151.2093));
        for (a, b, km) in [
            (berlin, paris, 878.0),
            (berlin, sydney, 16_095.0),
            (at(0.0, 179.5), at(0.0, -179.5), 111.0),
            (at(90.0, 0.0), at(-90.0, 0.0), 20_015.0),
            (berlin, berlin, 0.0),
        ] {
            let found = distance_km(a, b);
            assert!((found - km).abs() <= km / 500.0 + 1e-6, "{a:?} to {b:?}: {found} km, expected {km} km");
            assert!((found - distance_km(b, a)).abs() < 1e-9);
        }
    }

    #[test]
    fn what_is_near_counts_more() {
        let berlin = at(52.52, 13.405);
        assert_eq!(nearness(berlin, berlin), 1_000);
        assert_eq!(nearness(berlin, at(48.8566, 2.3522)), 930);
        assert_eq!(nearness(berlin, at(-33.8688, 151.2093)), 200);
    }

    #[test]
    fn the_functions_are_as_good_as_the_machine_s() {
        for n in -1_000..=1_000 {
            let angle = f64::from(n) * PI / 1_000.0;
            assert!((sine(angle) - angle.sin()).abs() < 1e-12, "sine of {angle}");
        }
        for n in 0..=1_000 {
            let x = f64::from(n) / 1_000.0;
            assert!((arc_sine(x) - x.asin()).abs() < 1e-9, "arc sine of {x}");
        }
    }

    #[test]
    fn there_is_no_place_beyond_the_poles() {
        for degrees in [[90.1, 0.0], [-90.1, 0.0], [0.0, 180.1], [f64::NAN, 0.0], [0.0, f64::INFINITY]] {
            assert_eq!(Coordinates::from_degrees(degrees), Err(CoordinatesError));
        }
        assert_eq!(at(52.52, 13.405).degrees(), [52.52, 13.405]);
    }
}
