-- The few lines that FlowForge itself wrote, found without passing over all others. A line's primary key is part of
-- every index of its table.
CREATE INDEX lines_system ON lines (task_key, "offset") WHERE stream = 4;
