-- Who says when a contract is funded next: the venue, or the rule of a venue that publishes no schedule.

ALTER TABLE funding ADD COLUMN IF NOT EXISTS schedule_source text;
