//! Where an instance runs.

use rollcall_api::Locality;

use super::name_rule;
use crate::fault::Fields;

pub(super) fn locality(mut fields: Fields<'_>) -> Locality {
    let (region, zone) = (fields.checked("region", name_rule), fields.checked("zone", name_rule));
    let (latitude, longitude) = (degrees(&mut fields, "latitude", 90.0), degrees(&mut fields, "longitude", 180.0));
    match (latitude, longitude) {
        (Some(_), None) => fields.fault("longitude", "is required with latitude"),
        (None, Some(_)) => fields.fault("latitude", "is required with longitude"),
        (Some(_), Some(_)) | (None, None) => {}
    }
    fields.finish();
    Locality { region, zone, latitude, longitude }
}

/// What is no number counts as given, so that the other of both is not missed for it.
fn degrees(fields: &mut Fields<'_>, member: &str, max: f64) -> Option<f64> {
    let degrees = fields.take(member)?.as_f64().filter(|degrees| (-max..=max).contains(degrees));
    if degrees.is_none() {
        fields.fault(member, format!("must be a number from -{max} to {max}"));
    }
    Some(degrees.unwrap_or(0.0))
}
