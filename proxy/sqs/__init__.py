"""The queue entrance: jobs from Amazon SQS, and the replies to them."""
