"""What happens in which order: backup, restore, verify, check. Imports source, proof and repository; decides no WHEN."""
