// @ts-check
/** The API's document, by Swagger UI. */

/** @type {any} */ (window).SwaggerUIBundle({ url: "/api/v1/openapi.json", dom_id: "#docs", deepLinking: true, docExpansion: "none", validatorUrl: null });
