-- number: 1
-- min_reader: 1
-- digest: 8ba39047d9b9f2bf
-- Begins the schema. There is nothing to change in an empty store.
-- KEYS     1 the `versions` hash of the partition, which knows every roster
-- ARGV     1 the cursor: '' at first, then what the last call returned
-- Returns  the cursor of the next call, '' at the end. A step may be carried out twice, and does a bounded part of its work in each call.
return ''
