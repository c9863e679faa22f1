"""What happens in which order: backup, restore, verify, check. Imports source, proof, repository; decides no WHEN."""
