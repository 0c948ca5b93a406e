"""From the published adapter to its other forms: the merged model, a GGUF file, and copies in registries and hubs."""
