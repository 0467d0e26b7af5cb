SELECT lease_boot_id, lease_deadline_us FROM work_items WHERE work_item_id = :item
