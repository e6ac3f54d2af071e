//! Progress as a store's rows tell of it.

use proto::{Chapter, MangaId, MergeKey, NodeId, UserId, Version};

/// Reads `user|manga|generation|chapter|version|node`, the chapter in hundredths.
pub(crate) fn merge_key(row: &str) -> ((UserId, MangaId), MergeKey) {
    let (user, numbers) = row.split_once('|').unwrap();
    let numbers: Vec<u64> = numbers.split('|').map(|number| number.parse().unwrap()).collect();
    let [manga, generation, chapter, version, node] = numbers.try_into().unwrap();
    let key = MergeKey {
        generation: Version(generation),
        chapter: Chapter::from_hundredths(chapter as u32).unwrap(),
        version: Version(version),
        node: NodeId(node as u32),
    };
    ((user.parse().unwrap(), MangaId(manga as i64)), key)
}
