//! `rum grid backup`: copies all named objects into a folder.

use std::path::Path;

use rum_core::grid::{
    Grid,
    objects::{OBJECT_BATCH_BYTES, ObjectEntry, ObjectError, StoredObject},
};

use super::{
    GridError, Name,
    files::{ObjectFile, Writing},
    join,
    manifest::Entry,
    mebibytes,
};

pub fn run(folder: &Path, machines: Option<&Path>) -> Result<String, GridError> {
    let grid = join(machines)?;
    let mut writing = Writing::begin(folder)?;
    let mut bytes = 0;
    for object in grid.objects().map_err(GridError::List)? {
        match copy(&grid, &object, &writing)? {
            Some(entry) => {
                bytes += entry.size_bytes;
                writing.add(entry);
            }
            None => println!("{}: was freed meanwhile: left out", Name(object.hash)),
        }
    }
    grid.leave();
    let manifest = writing.finish()?;
    Ok(format!("{} objects, {} in {}", manifest.objects.len(), mebibytes(bytes), folder.display()))
}

/// Copies an object; `None` if it is not there any more.
fn copy(grid: &Grid, object: &ObjectEntry, writing: &Writing) -> Result<Option<Entry>, GridError> {
    let ObjectEntry { hash, pinned, .. } = object;
    let failed = |error| GridError::Object(Name(*hash), error);
    let Some(stored) = grid.open_object(hash, pinned.as_ref(), None).map_err(failed)? else { return Ok(None) };
    let mut file = writing.object()?;
    if let Err(error) = copy_bytes(grid, &stored, *hash, &mut file) {
        file.abandon()?;
        return if matches!(error, GridError::Object(_, ObjectError::Freed)) { Ok(None) } else { Err(error) };
    }
    let checksum = file.finish()?;
    Ok(Some(Entry { hash: *hash, size_bytes: stored.size_bytes(), pinned: pinned.clone(), checksum }))
}

fn copy_bytes(
    grid: &Grid,
    stored: &StoredObject,
    hash: rum_core::grid::ObjectHash,
    file: &mut ObjectFile,
) -> Result<(), GridError> {
    let mut piece = vec![0; OBJECT_BATCH_BYTES];
    let mut at = 0;
    while at < stored.size_bytes() {
        let len = (stored.size_bytes() - at).min(OBJECT_BATCH_BYTES as u64) as usize;
        grid.read_object(stored, at, &mut piece[..len]).map_err(|error| GridError::Object(Name(hash), error))?;
        file.push(&piece[..len])?;
        at += len as u64;
    }
    Ok(())
}
