"""Read and write the settings of the engines (topic ``engine_settings``)."""
