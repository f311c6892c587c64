//! Phase: where in the target or the body of a request something of ours stands. Only what stands there as it is, whole
//! and once, is at a place; anything else is elsewhere in the path, the query or the body.

use postern_policy::{
    BodyKind, Found, Location, Place,
    location::{JsonPlaces, Segment, key_of},
};

use super::identify::Asked;
use crate::recognise::{Recogniser, Sighting};

/// What a path holds. The place is found in the path that is decided on, which is the one that is sent.
pub(crate) fn in_path(recogniser: &Recogniser, asked: &Asked, raw: &str) -> Vec<Found> {
    let place = |sighting: &Sighting| {
        let text = raw.get(sighting.range.clone()).filter(|_| sighting.plain)?;
        Segment::holding(&asked.path, text).map(Place::Segment)
    };
    found(recogniser.find(raw.as_bytes()), place, &Place::Path)
}

/// What a query holds.
pub(crate) fn in_query(recogniser: &Recogniser, query: &str) -> Vec<Found> {
    found(
        recogniser.find(query.as_bytes()),
        |sighting| at_key(query.as_bytes(), sighting, Location::Query),
        &Place::Query,
    )
}

/// What a body that was read whole holds.
pub(crate) fn in_body(recogniser: &Recogniser, kind: BodyKind, text: &[u8]) -> Vec<Found> {
    let sightings = recogniser.find_known(text);
    let few = sightings.len() <= PLACES;
    let place = |sighting: &Sighting| match kind {
        BodyKind::Form if few => at_key(text, sighting, Location::Form),
        BodyKind::Json if few => at_pointer(text, sighting),
        BodyKind::Form | BodyKind::Json => None,
    };
    found(sightings, place, &Place::Body)
}

fn at_key(
    pairs: &[u8],
    sighting: &Sighting,
    location: impl Fn(postern_policy::location::KeyName) -> Location,
) -> Option<Place> {
    let key = key_of(pairs, &sighting.range).filter(|_| sighting.plain)?;
    Some(Place::At(location(key)))
}

fn at_pointer(text: &[u8], sighting: &Sighting) -> Option<Place> {
    let wanted = text.get(sighting.range.clone()).filter(|_| sighting.plain)?;
    let places = JsonPlaces::of(text, wanted).ok()?;
    Some(Place::At(Location::Json(places.pointer(&sighting.range)?.clone())))
}

fn found(sightings: Vec<Sighting>, place: impl Fn(&Sighting) -> Option<Place>, elsewhere: &Place) -> Vec<Found> {
    let one = |sighting: Sighting| Found {
        place: place(&sighting).unwrap_or_else(|| elsewhere.clone()),
        credential: sighting.credential,
        value: sighting.value,
    };
    sightings.into_iter().map(one).collect()
}

/// A request has no use for more; each costs one reading of the body.
const PLACES: usize = 16;
