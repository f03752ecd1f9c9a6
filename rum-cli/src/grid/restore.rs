//! `rum grid restore`: makes named objects of those in a folder, when all of that was checked.

use std::path::Path;

use rum_core::grid::{
    AllocError, Grid,
    objects::{OBJECT_BATCH_BYTES, ObjectError, StoredObject},
};

use super::{GridError, Name, files::Reading, join, manifest::Entry, mebibytes, place};

pub fn run(folder: &Path, machines: Option<&Path>, replace: bool) -> Result<String, GridError> {
    let reading = Reading::open(folder)?;
    for number in 0..reading.manifest.objects.len() {
        reading.read(number, |_, _| Ok::<_, GridError>(()))?;
    }
    let grid = join(machines)?;
    let sizes = look(&grid, &reading)?;
    let (mut restored, mut kept, mut bytes) = (0, 0, 0);
    for (number, (entry, existing)) in reading.manifest.objects.iter().zip(sizes).enumerate() {
        if let Some(existing) = existing
            && !replace
        {
            println!(
                "{}: exists with {existing} bytes: left as it is (--replace takes the backup's)",
                Name(entry.hash)
            );
            kept += 1;
            continue;
        }
        restore(&grid, &reading, number, existing)?;
        if existing.is_some() {
            println!("{}: exists: replaced", Name(entry.hash));
        }
        restored += 1;
        bytes += entry.size_bytes;
    }
    grid.leave();
    let kept = if kept > 0 { format!(", {kept} left as they are") } else { String::new() };
    Ok(format!("{restored} objects, {} from {}{kept}", mebibytes(bytes), folder.display()))
}

/// The sizes of those objects of the backup that exist. All places have to be there.
fn look(grid: &Grid, reading: &Reading) -> Result<Vec<Option<u64>>, GridError> {
    let look = |entry: &Entry| match grid.open_object(&entry.hash, entry.pinned.as_ref(), None) {
        Ok(object) => Ok(object.map(|object| object.size_bytes())),
        Err(ObjectError::Open(AllocError::UnknownLocation)) => {
            let location = entry.pinned.as_ref().map_or_else(String::new, place);
            Err(GridError::NoLocation(Name(entry.hash), location))
        }
        Err(error) => Err(GridError::Object(Name(entry.hash), error)),
    };
    reading.manifest.objects.iter().map(look).collect()
}

/// Makes an object that is not there, or overwrites one that is. What cannot be written whole is freed again, unless it was there before.
fn restore(grid: &Grid, reading: &Reading, number: usize, existing: Option<u64>) -> Result<(), GridError> {
    let entry = &reading.manifest.objects[number];
    let failed = |error| GridError::Object(Name(entry.hash), error);
    let location = entry.pinned.as_ref();
    if existing.is_some_and(|existing| existing != entry.size_bytes)
        && let Some(other) = grid.open_object(&entry.hash, location, None).map_err(failed)?
    {
        grid.free_object(other);
    }
    let object = grid.open_object(&entry.hash, location, Some(entry.size_bytes)).map_err(failed)?;
    let Some(object) = object else { return Ok(()) };
    let result = write(grid, reading, number, &object);
    if result.is_err() && !object.existed {
        grid.free_object(object);
    }
    result
}

fn write(grid: &Grid, reading: &Reading, number: usize, object: &StoredObject) -> Result<(), GridError> {
    let hash = reading.manifest.objects[number].hash;
    reading.read(number, |at, piece| {
        for (offset, bytes) in (at..).step_by(OBJECT_BATCH_BYTES).zip(piece.chunks(OBJECT_BATCH_BYTES)) {
            // What was not written reads as zeros.
            if object.existed || bytes.iter().any(|&byte| byte != 0) {
                grid.write_object(object, offset, bytes).map_err(|error| GridError::Object(Name(hash), error))?;
            }
        }
        Ok(())
    })
}
