-- number: 1
-- min_reader: 1
-- digest: 1f1c3f4802f05b71
-- Begins the schema. There is nothing to change in an empty store.
-- KEYS     1 the `versions` hash of the partition, which knows every roster
-- ARGV     1 the cursor: '' at first, then what the last call returned
-- Returns  the cursor of the next call, '' at the end. A step may be carried out twice, and does a bounded part of its work in each call.
return ''
