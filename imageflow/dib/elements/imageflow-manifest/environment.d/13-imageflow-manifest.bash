# What is kept of the environment is written beforehand, without secrets.
{ set +x; } 2>/dev/null
if [ -r "${IMAGEFLOW_ENVIRONMENT:-}" ]; then
    DIB_ENV=$(cat "$IMAGEFLOW_ENVIRONMENT")
    export DIB_ENV
fi
