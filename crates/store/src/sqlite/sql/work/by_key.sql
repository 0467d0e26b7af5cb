SELECT work_item_id FROM work_items WHERE unique_key = :key
