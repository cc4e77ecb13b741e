const described = {
 "openapi": "3.1.0",
 "info": {
  "title": "QIG Constellation",
  "description": "An edge of a constellation over HTTP: OpenAI's API. docs/api.md says what is different.",
  "version": "1"
 },
 "paths": {
  "/v1/completions": {
   "post": {
    "summary": "Complete",
    "description": "Continue a prompt.",
    "operationId": "complete_v1_completions_post",
    "requestBody": {
     "content": {
      "application/json": {
       "schema": {
        "$ref": "#/components/schemas/CompletionRequest"
       }
      }
     },
     "required": true
    },
    "responses": {
     "200": {
      "description": "The answer, or its stream",
      "content": {
       "application/json": {
        "schema": {
         "$ref": "#/components/schemas/Completion"
        }
       },
       "text/event-stream": {
        "schema": {
         "type": "string"
        }
       }
      }
     },
     "401": {
      "description": "No key, or none of ours",
      "content": {
       "application/json": {
        "schema": {
         "$ref": "#/components/schemas/ErrorBody"
        }
       }
      }
     },
     "404": {
      "description": "No such address, model or interaction",
      "content": {
       "application/json": {
        "schema": {
         "$ref": "#/components/schemas/ErrorBody"
        }
       }
      }
     },
     "429": {
      "description": "Too many requests of this key, or too many at once: see retry-after",
      "content": {
       "application/json": {
        "schema": {
         "$ref": "#/components/schemas/ErrorBody"
        }
       }
      }
     },
     "4XX": {
      "description": "The request is wrong; `param` says where",
      "content": {
       "application/json": {
        "schema": {
         "$ref": "#/components/schemas/ErrorBody"
        }
       }
      }
     },
     "503": {
      "description": "No bundle has come yet, or this edge starts or stops: see retry-after",
      "content": {
       "application/json": {
        "schema": {
         "$ref": "#/components/schemas/ErrorBody"
        }
       }
      }
     },
     "5XX": {
      "description": "A fault of ours",
      "content": {
       "application/json": {
        "schema": {
         "$ref": "#/components/schemas/ErrorBody"
        }
       }
      }
     }
    }
   }
  },
  "/v1/chat/completions": {
   "post": {
    "summary": "Chat",
    "description": "Answer a conversation: its texts, one after the other, are continued.",
    "operationId": "chat_v1_chat_completions_post",
    "requestBody": {
     "content": {
      "application/json": {
       "schema": {
        "$ref": "#/components/schemas/ChatRequest"
       }
      }
     },
     "required": true
    },
    "responses": {
     "200": {
      "description": "The answer, or its stream",
      "content": {
       "application/json": {
        "schema": {
         "$ref": "#/components/schemas/ChatCompletion"
        }
       },
       "text/event-stream": {
        "schema": {
         "type": "string"
        }
       }
      }
     },
     "401": {
      "description": "No key, or none of ours",
      "content": {
       "application/json": {
        "schema": {
         "$ref": "#/components/schemas/ErrorBody"
        }
       }
      }
     },
     "404": {
      "description": "No such address, model or interaction",
      "content": {
       "application/json": {
        "schema": {
         "$ref": "#/components/schemas/ErrorBody"
        }
       }
      }
     },
     "429": {
      "description": "Too many requests of this key, or too many at once: see retry-after",
      "content": {
       "application/json": {
        "schema": {
         "$ref": "#/components/schemas/ErrorBody"
        }
       }
      }
     },
     "4XX": {
      "description": "The request is wrong; `param` says where",
      "content": {
       "application/json": {
        "schema": {
         "$ref": "#/components/schemas/ErrorBody"
        }
       }
      }
     },
     "503": {
      "description": "No bundle has come yet, or this edge starts or stops: see retry-after",
      "content": {
       "application/json": {
        "schema": {
         "$ref": "#/components/schemas/ErrorBody"
        }
       }
      }
     },
     "5XX": {
      "description": "A fault of ours",
      "content": {
       "application/json": {
        "schema": {
         "$ref": "#/components/schemas/ErrorBody"
        }
       }
      }
     }
    }
   }
  },
  "/v1/embeddings": {
   "post": {
    "summary": "Embed",
    "description": "Where texts lie: their basins.",
    "operationId": "embed_v1_embeddings_post",
    "requestBody": {
     "content": {
      "application/json": {
       "schema": {
        "$ref": "#/components/schemas/EmbeddingRequest"
       }
      }
     },
     "required": true
    },
    "responses": {
     "200": {
      "description": "Successful Response",
      "content": {
       "application/json": {
        "schema": {
         "$ref": "#/components/schemas/EmbeddingList"
        }
       }
      }
     },
     "401": {
      "description": "No key, or none of ours",
      "content": {
       "application/json": {
        "schema": {
         "$ref": "#/components/schemas/ErrorBody"
        }
       }
      }
     },
     "404": {
      "description": "No such address, model or interaction",
      "content": {
       "application/json": {
        "schema": {
         "$ref": "#/components/schemas/ErrorBody"
        }
       }
      }
     },
     "429": {
      "description": "Too many requests of this key, or too many at once: see retry-after",
      "content": {
       "application/json": {
        "schema": {
         "$ref": "#/components/schemas/ErrorBody"
        }
       }
      }
     },
     "4XX": {
      "description": "The request is wrong; `param` says where",
      "content": {
       "application/json": {
        "schema": {
         "$ref": "#/components/schemas/ErrorBody"
        }
       }
      }
     },
     "503": {
      "description": "No bundle has come yet, or this edge starts or stops: see retry-after",
      "content": {
       "application/json": {
        "schema": {
         "$ref": "#/components/schemas/ErrorBody"
        }
       }
      }
     },
     "5XX": {
      "description": "A fault of ours",
      "content": {
       "application/json": {
        "schema": {
         "$ref": "#/components/schemas/ErrorBody"
        }
       }
      }
     }
    }
   }
  },
  "/v1/models": {
   "get": {
    "summary": "Models",
    "description": "The ways to be answered.",
    "operationId": "models_v1_models_get",
    "responses": {
     "200": {
      "description": "Successful Response",
      "content": {
       "application/json": {
        "schema": {
         "$ref": "#/components/schemas/ModelList"
        }
       }
      }
     },
     "401": {
      "description": "No key, or none of ours",
      "content": {
       "application/json": {
        "schema": {
         "$ref": "#/components/schemas/ErrorBody"
        }
       }
      }
     },
     "404": {
      "description": "No such address, model or interaction",
      "content": {
       "application/json": {
        "schema": {
         "$ref": "#/components/schemas/ErrorBody"
        }
       }
      }
     },
     "429": {
      "description": "Too many requests of this key, or too many at once: see retry-after",
      "content": {
       "application/json": {
        "schema": {
         "$ref": "#/components/schemas/ErrorBody"
        }
       }
      }
     },
     "4XX": {
      "description": "The request is wrong; `param` says where",
      "content": {
       "application/json": {
        "schema": {
         "$ref": "#/components/schemas/ErrorBody"
        }
       }
      }
     },
     "503": {
      "description": "No bundle has come yet, or this edge starts or stops: see retry-after",
      "content": {
       "application/json": {
        "schema": {
         "$ref": "#/components/schemas/ErrorBody"
        }
       }
      }
     },
     "5XX": {
      "description": "A fault of ours",
      "content": {
       "application/json": {
        "schema": {
         "$ref": "#/components/schemas/ErrorBody"
        }
       }
      }
     }
    }
   }
  },
  "/v1/models/{name}": {
   "get": {
    "summary": "Model",
    "description": "One of them.",
    "operationId": "model_v1_models__name__get",
    "parameters": [
     {
      "name": "name",
      "in": "path",
      "required": true,
      "schema": {
       "type": "string",
       "title": "Name"
      }
     }
    ],
    "responses": {
     "200": {
      "description": "Successful Response",
      "content": {
       "application/json": {
        "schema": {
         "$ref": "#/components/schemas/Model"
        }
       }
      }
     },
     "401": {
      "description": "No key, or none of ours",
      "content": {
       "application/json": {
        "schema": {
         "$ref": "#/components/schemas/ErrorBody"
        }
       }
      }
     },
     "404": {
      "description": "No such address, model or interaction",
      "content": {
       "application/json": {
        "schema": {
         "$ref": "#/components/schemas/ErrorBody"
        }
       }
      }
     },
     "429": {
      "description": "Too many requests of this key, or too many at once: see retry-after",
      "content": {
       "application/json": {
        "schema": {
         "$ref": "#/components/schemas/ErrorBody"
        }
       }
      }
     },
     "4XX": {
      "description": "The request is wrong; `param` says where",
      "content": {
       "application/json": {
        "schema": {
         "$ref": "#/components/schemas/ErrorBody"
        }
       }
      }
     },
     "503": {
      "description": "No bundle has come yet, or this edge starts or stops: see retry-after",
      "content": {
       "application/json": {
        "schema": {
         "$ref": "#/components/schemas/ErrorBody"
        }
       }
      }
     },
     "5XX": {
      "description": "A fault of ours",
      "content": {
       "application/json": {
        "schema": {
         "$ref": "#/components/schemas/ErrorBody"
        }
       }
      }
     }
    }
   }
  },
  "/v1/interactions/{name}": {
   "delete": {
    "summary": "Forget",
    "description": "Forget a request: its text, its answer, and what they taught.",
    "operationId": "forget_v1_interactions__name__delete",
    "parameters": [
     {
      "name": "name",
      "in": "path",
      "required": true,
      "schema": {
       "type": "string",
       "title": "Name"
      }
     },
     {
      "name": "client",
      "in": "query",
      "required": false,
      "schema": {
       "anyOf": [
        {
         "type": "string"
        },
        {
         "type": "null"
        }
       ],
       "description": "Whose it is; the asking key's own, or http where none is needed",
       "title": "Client"
      },
      "description": "Whose it is; the asking key's own, or http where none is needed"
     }
    ],
    "responses": {
     "200": {
      "description": "Successful Response",
      "content": {
       "application/json": {
        "schema": {
         "$ref": "#/components/schemas/Deleted"
        }
       }
      }
     },
     "401": {
      "description": "No key, or none of ours",
      "content": {
       "application/json": {
        "schema": {
         "$ref": "#/components/schemas/ErrorBody"
        }
       }
      }
     },
     "404": {
      "description": "No such address, model or interaction",
      "content": {
       "application/json": {
        "schema": {
         "$ref": "#/components/schemas/ErrorBody"
        }
       }
      }
     },
     "429": {
      "description": "Too many requests of this key, or too many at once: see retry-after",
      "content": {
       "application/json": {
        "schema": {
         "$ref": "#/components/schemas/ErrorBody"
        }
       }
      }
     },
     "4XX": {
      "description": "The request is wrong; `param` says where",
      "content": {
       "application/json": {
        "schema": {
         "$ref": "#/components/schemas/ErrorBody"
        }
       }
      }
     },
     "503": {
      "description": "No bundle has come yet, or this edge starts or stops: see retry-after",
      "content": {
       "application/json": {
        "schema": {
         "$ref": "#/components/schemas/ErrorBody"
        }
       }
      }
     },
     "5XX": {
      "description": "A fault of ours",
      "content": {
       "application/json": {
        "schema": {
         "$ref": "#/components/schemas/ErrorBody"
        }
       }
      }
     }
    }
   }
  },
  "/v1/interactions/{name}/feedback": {
   "post": {
    "summary": "Feedback",
    "description": "Say whether an answer was any good.",
    "operationId": "feedback_v1_interactions__name__feedback_post",
    "parameters": [
     {
      "name": "name",
      "in": "path",
      "required": true,
      "schema": {
       "type": "string",
       "title": "Name"
      }
     },
     {
      "name": "client",
      "in": "query",
      "required": false,
      "schema": {
       "anyOf": [
        {
         "type": "string"
        },
        {
         "type": "null"
        }
       ],
       "description": "Whose it is; the asking key's own, or http where none is needed",
       "title": "Client"
      },
      "description": "Whose it is; the asking key's own, or http where none is needed"
     }
    ],
    "requestBody": {
     "required": true,
     "content": {
      "application/json": {
       "schema": {
        "$ref": "#/components/schemas/FeedbackRequest"
       }
      }
     }
    },
    "responses": {
     "200": {
      "description": "Successful Response",
      "content": {
       "application/json": {
        "schema": {
         "$ref": "#/components/schemas/Feedback"
        }
       }
      }
     },
     "401": {
      "description": "No key, or none of ours",
      "content": {
       "application/json": {
        "schema": {
         "$ref": "#/components/schemas/ErrorBody"
        }
       }
      }
     },
     "404": {
      "description": "No such address, model or interaction",
      "content": {
       "application/json": {
        "schema": {
         "$ref": "#/components/schemas/ErrorBody"
        }
       }
      }
     },
     "429": {
      "description": "Too many requests of this key, or too many at once: see retry-after",
      "content": {
       "application/json": {
        "schema": {
         "$ref": "#/components/schemas/ErrorBody"
        }
       }
      }
     },
     "4XX": {
      "description": "The request is wrong; `param` says where",
      "content": {
       "application/json": {
        "schema": {
         "$ref": "#/components/schemas/ErrorBody"
        }
       }
      }
     },
     "503": {
      "description": "No bundle has come yet, or this edge starts or stops: see retry-after",
      "content": {
       "application/json": {
        "schema": {
         "$ref": "#/components/schemas/ErrorBody"
        }
       }
      }
     },
     "5XX": {
      "description": "A fault of ours",
      "content": {
       "application/json": {
        "schema": {
         "$ref": "#/components/schemas/ErrorBody"
        }
       }
      }
     }
    }
   }
  }
 },
 "components": {
  "schemas": {
   "ChatChoice": {
    "properties": {
     "index": {
      "type": "integer",
      "title": "Index"
     },
     "message": {
      "$ref": "#/components/schemas/Said"
     },
     "logprobs": {
      "type": "null",
      "title": "Logprobs"
     },
     "finish_reason": {
      "type": "string",
      "enum": [
       "stop",
       "length"
      ],
      "title": "Finish Reason"
     },
     "constellation": {
      "$ref": "#/components/schemas/Evidence"
     }
    },
    "type": "object",
    "required": [
     "index",
     "message",
     "logprobs",
     "finish_reason"
    ],
    "title": "ChatChoice",
    "description": "constellation: where a request has several choices, each has its own."
   },
   "ChatCompletion": {
    "properties": {
     "id": {
      "type": "string",
      "title": "Id"
     },
     "object": {
      "type": "string",
      "const": "chat.completion",
      "title": "Object"
     },
     "created": {
      "type": "integer",
      "title": "Created"
     },
     "model": {
      "type": "string",
      "title": "Model"
     },
     "system_fingerprint": {
      "type": "string",
      "title": "System Fingerprint"
     },
     "choices": {
      "items": {
       "$ref": "#/components/schemas/ChatChoice"
      },
      "type": "array",
      "title": "Choices"
     },
     "usage": {
      "$ref": "#/components/schemas/Usage"
     },
     "constellation": {
      "$ref": "#/components/schemas/Evidence"
     }
    },
    "type": "object",
    "required": [
     "id",
     "object",
     "created",
     "model",
     "system_fingerprint",
     "choices",
     "usage"
    ],
    "title": "ChatCompletion",
    "description": "The answer. constellation: that of its only choice."
   },
   "ChatMessage": {
    "properties": {
     "role": {
      "type": "string",
      "enum": [
       "system",
       "developer",
       "user",
       "assistant",
       "tool",
       "function"
      ],
      "title": "Role"
     },
     "content": {
      "anyOf": [
       {
        "type": "string"
       },
       {
        "items": {
         "$ref": "#/components/schemas/ContentPart"
        },
        "type": "array"
       },
       {
        "type": "null"
       }
      ],
      "title": "Content"
     }
    },
    "additionalProperties": true,
    "type": "object",
    "required": [
     "role"
    ],
    "title": "ChatMessage",
    "description": "One message."
   },
   "ChatRequest": {
    "properties": {
     "model": {
      "type": "string",
      "enum": [
       "constellation",
       "vocab",
       "strategy",
       "percept",
       "heart"
      ],
      "maxLength": 256,
      "title": "Model",
      "description": "constellation: the router picks a kernel; or one kernel by its name"
     },
     "mode": {
      "anyOf": [
       {
        "type": "string",
        "enum": [
         "routed",
         "constellation"
        ]
       },
       {
        "type": "null"
       }
      ],
      "title": "Mode",
      "description": "constellation: all four kernels answer together; of the model constellation alone"
     },
     "n": {
      "anyOf": [
       {
        "type": "integer",
        "maximum": 16.0,
        "minimum": 1.0
       },
       {
        "type": "null"
       }
      ],
      "title": "N"
     },
     "stop": {
      "anyOf": [
       {
        "type": "string",
        "maxLength": 64,
        "minLength": 1
       },
       {
        "items": {
         "type": "string",
         "maxLength": 64,
         "minLength": 1
        },
        "type": "array",
        "maxItems": 4
       },
       {
        "type": "null"
       }
      ],
      "title": "Stop"
     },
     "seed": {
      "anyOf": [
       {
        "type": "integer"
       },
       {
        "type": "null"
       }
      ],
      "title": "Seed",
      "description": "The same seed, prompt and bundle give the same text, until the edge learns"
     },
     "temperature": {
      "anyOf": [
       {
        "type": "number",
        "maximum": 2.0,
        "minimum": 0.0
       },
       {
        "type": "null"
       }
      ],
      "title": "Temperature",
      "description": "0.8 when absent"
     },
     "top_p": {
      "anyOf": [
       {
        "type": "number",
        "maximum": 1.0,
        "minimum": 0.0
       },
       {
        "type": "null"
       }
      ],
      "title": "Top P"
     },
     "stream": {
      "anyOf": [
       {
        "type": "boolean"
       },
       {
        "type": "null"
       }
      ],
      "title": "Stream"
     },
     "stream_options": {
      "anyOf": [
       {
        "$ref": "#/components/schemas/StreamOptions"
       },
       {
        "type": "null"
       }
      ]
     },
     "store": {
      "anyOf": [
       {
        "type": "boolean"
       },
       {
        "type": "null"
       }
      ],
      "title": "Store",
      "description": "false: answer, and learn nothing from it"
     },
     "messages": {
      "items": {
       "$ref": "#/components/schemas/ChatMessage"
      },
      "type": "array",
      "maxItems": 2048,
      "minItems": 1,
      "title": "Messages"
     },
     "max_completion_tokens": {
      "anyOf": [
       {
        "type": "integer",
        "maximum": 1024.0,
        "minimum": 1.0
       },
       {
        "type": "null"
       }
      ],
      "title": "Max Completion Tokens",
      "description": "Until it ends by itself, and 1,024 at most, when absent"
     },
     "max_tokens": {
      "anyOf": [
       {
        "type": "integer",
        "maximum": 1024.0,
        "minimum": 1.0
       },
       {
        "type": "null"
       }
      ],
      "title": "Max Tokens",
      "description": "The older name of the same"
     }
    },
    "additionalProperties": true,
    "type": "object",
    "required": [
     "model",
     "messages"
    ],
    "title": "ChatRequest",
    "description": "The body of POST /v1/chat/completions."
   },
   "Completion": {
    "properties": {
     "id": {
      "type": "string",
      "title": "Id"
     },
     "object": {
      "type": "string",
      "const": "text_completion",
      "title": "Object"
     },
     "created": {
      "type": "integer",
      "title": "Created"
     },
     "model": {
      "type": "string",
      "title": "Model"
     },
     "system_fingerprint": {
      "type": "string",
      "title": "System Fingerprint"
     },
     "choices": {
      "items": {
       "$ref": "#/components/schemas/CompletionChoice"
      },
      "type": "array",
      "title": "Choices"
     },
     "usage": {
      "anyOf": [
       {
        "$ref": "#/components/schemas/Usage"
       },
       {
        "type": "null"
       }
      ]
     },
     "constellation": {
      "$ref": "#/components/schemas/Evidence"
     }
    },
    "type": "object",
    "required": [
     "id",
     "object",
     "created",
     "model",
     "system_fingerprint",
     "choices"
    ],
    "title": "Completion",
    "description": "The answer, and each chunk of a stream. constellation: the first choice's, at the end of its text."
   },
   "CompletionChoice": {
    "properties": {
     "text": {
      "type": "string",
      "title": "Text"
     },
     "index": {
      "type": "integer",
      "title": "Index"
     },
     "logprobs": {
      "type": "null",
      "title": "Logprobs"
     },
     "finish_reason": {
      "anyOf": [
       {
        "type": "string",
        "enum": [
         "stop",
         "length"
        ]
       },
       {
        "type": "null"
       }
      ],
      "title": "Finish Reason"
     },
     "constellation": {
      "$ref": "#/components/schemas/Evidence"
     }
    },
    "type": "object",
    "required": [
     "text",
     "index",
     "logprobs",
     "finish_reason"
    ],
    "title": "CompletionChoice",
    "description": "constellation: where a request has several choices, each has its own."
   },
   "CompletionRequest": {
    "properties": {
     "model": {
      "type": "string",
      "enum": [
       "constellation",
       "vocab",
       "strategy",
       "percept",
       "heart"
      ],
      "maxLength": 256,
      "title": "Model",
      "description": "constellation: the router picks a kernel; or one kernel by its name"
     },
     "mode": {
      "anyOf": [
       {
        "type": "string",
        "enum": [
         "routed",
         "constellation"
        ]
       },
       {
        "type": "null"
       }
      ],
      "title": "Mode",
      "description": "constellation: all four kernels answer together; of the model constellation alone"
     },
     "n": {
      "anyOf": [
       {
        "type": "integer",
        "maximum": 16.0,
        "minimum": 1.0
       },
       {
        "type": "null"
       }
      ],
      "title": "N"
     },
     "stop": {
      "anyOf": [
       {
        "type": "string",
        "maxLength": 64,
        "minLength": 1
       },
       {
        "items": {
         "type": "string",
         "maxLength": 64,
         "minLength": 1
        },
        "type": "array",
        "maxItems": 4
       },
       {
        "type": "null"
       }
      ],
      "title": "Stop"
     },
     "seed": {
      "anyOf": [
       {
        "type": "integer"
       },
       {
        "type": "null"
       }
      ],
      "title": "Seed",
      "description": "The same seed, prompt and bundle give the same text, until the edge learns"
     },
     "temperature": {
      "anyOf": [
       {
        "type": "number",
        "maximum": 2.0,
        "minimum": 0.0
       },
       {
        "type": "null"
       }
      ],
      "title": "Temperature",
      "description": "0.8 when absent"
     },
     "top_p": {
      "anyOf": [
       {
        "type": "number",
        "maximum": 1.0,
        "minimum": 0.0
       },
       {
        "type": "null"
       }
      ],
      "title": "Top P"
     },
     "stream": {
      "anyOf": [
       {
        "type": "boolean"
       },
       {
        "type": "null"
       }
      ],
      "title": "Stream"
     },
     "stream_options": {
      "anyOf": [
       {
        "$ref": "#/components/schemas/StreamOptions"
       },
       {
        "type": "null"
       }
      ]
     },
     "store": {
      "anyOf": [
       {
        "type": "boolean"
       },
       {
        "type": "null"
       }
      ],
      "title": "Store",
      "description": "false: answer, and learn nothing from it"
     },
     "prompt": {
      "anyOf": [
       {
        "type": "string",
        "maxLength": 16384,
        "minLength": 1
       },
       {
        "items": {
         "type": "string",
         "maxLength": 16384,
         "minLength": 1
        },
        "type": "array",
        "maxItems": 16,
        "minItems": 1
       },
       {
        "items": {
         "type": "integer"
        },
        "type": "array",
        "maxItems": 16384,
        "minItems": 1
       },
       {
        "items": {
         "items": {
          "type": "integer"
         },
         "type": "array",
         "maxItems": 16384,
         "minItems": 1
        },
        "type": "array",
        "maxItems": 16,
        "minItems": 1
       }
      ],
      "title": "Prompt",
      "description": "A text, texts, or the same as token ids of the coordizer"
     },
     "max_tokens": {
      "anyOf": [
       {
        "type": "integer",
        "maximum": 1024.0,
        "minimum": 0.0
       },
       {
        "type": "null"
       }
      ],
      "title": "Max Tokens",
      "description": "16 when absent; 0 reads the prompt only"
     },
     "echo": {
      "anyOf": [
       {
        "type": "boolean"
       },
       {
        "type": "null"
       }
      ],
      "title": "Echo",
      "description": "Give the prompt back before its continuation"
     }
    },
    "additionalProperties": true,
    "type": "object",
    "required": [
     "model",
     "prompt"
    ],
    "title": "CompletionRequest",
    "description": "The body of POST /v1/completions."
   },
   "ContentPart": {
    "properties": {
     "type": {
      "type": "string",
      "title": "Type"
     },
     "text": {
      "anyOf": [
       {
        "type": "string"
       },
       {
        "type": "null"
       }
      ],
      "title": "Text"
     }
    },
    "additionalProperties": true,
    "type": "object",
    "required": [
     "type"
    ],
    "title": "ContentPart",
    "description": "A part of a message; only text is read."
   },
   "Deleted": {
    "properties": {
     "id": {
      "type": "string",
      "title": "Id"
     },
     "object": {
      "type": "string",
      "const": "interaction.deleted",
      "title": "Object"
     },
     "deleted": {
      "type": "boolean",
      "const": true,
      "title": "Deleted"
     },
     "counts": {
      "type": "string",
      "enum": [
       "none",
       "taken",
       "kept"
      ],
      "title": "Counts"
     },
     "withdrawn": {
      "items": {
       "type": "integer"
      },
      "type": "array",
      "title": "Withdrawn"
     },
     "left": {
      "items": {
       "$ref": "#/components/schemas/LeftPacket"
      },
      "type": "array",
      "title": "Left"
     }
    },
    "type": "object",
    "required": [
     "id",
     "object",
     "deleted",
     "counts",
     "withdrawn",
     "left"
    ],
    "title": "Deleted",
    "description": "What forgetting did. counts: none were made, they were taken back, or are kept by an older release.\n\nwithdrawn: packets that had not left, made anew without it."
   },
   "Embedding": {
    "properties": {
     "object": {
      "type": "string",
      "const": "embedding",
      "title": "Object"
     },
     "index": {
      "type": "integer",
      "title": "Index"
     },
     "embedding": {
      "anyOf": [
       {
        "items": {
         "type": "number"
        },
        "type": "array"
       },
       {
        "type": "string"
       }
      ],
      "title": "Embedding"
     }
    },
    "type": "object",
    "required": [
     "object",
     "index",
     "embedding"
    ],
    "title": "Embedding",
    "description": "embedding: 64 numbers that sum to one, or the same as base64 of little-endian float32."
   },
   "EmbeddingList": {
    "properties": {
     "object": {
      "type": "string",
      "const": "list",
      "title": "Object"
     },
     "data": {
      "items": {
       "$ref": "#/components/schemas/Embedding"
      },
      "type": "array",
      "title": "Data"
     },
     "model": {
      "type": "string",
      "title": "Model"
     },
     "usage": {
      "$ref": "#/components/schemas/EmbeddingUsage"
     }
    },
    "type": "object",
    "required": [
     "object",
     "data",
     "model",
     "usage"
    ],
    "title": "EmbeddingList",
    "description": "The answer."
   },
   "EmbeddingRequest": {
    "properties": {
     "model": {
      "type": "string",
      "enum": [
       "constellation",
       "vocab",
       "strategy",
       "percept",
       "heart"
      ],
      "maxLength": 256,
      "title": "Model",
      "description": "Any of the models: a text lies in the same place for all"
     },
     "input": {
      "anyOf": [
       {
        "type": "string",
        "maxLength": 16384,
        "minLength": 1
       },
       {
        "items": {
         "type": "string",
         "maxLength": 16384,
         "minLength": 1
        },
        "type": "array",
        "maxItems": 2048,
        "minItems": 1
       },
       {
        "items": {
         "type": "integer"
        },
        "type": "array",
        "maxItems": 16384,
        "minItems": 1
       },
       {
        "items": {
         "items": {
          "type": "integer"
         },
         "type": "array",
         "maxItems": 16384,
         "minItems": 1
        },
        "type": "array",
        "maxItems": 2048,
        "minItems": 1
       }
      ],
      "title": "Input",
      "description": "A text, texts, or the same as token ids of the coordizer"
     },
     "encoding_format": {
      "anyOf": [
       {
        "type": "string",
        "enum": [
         "float",
         "base64"
        ]
       },
       {
        "type": "null"
       }
      ],
      "title": "Encoding Format"
     },
     "dimensions": {
      "anyOf": [
       {
        "type": "integer",
        "const": 64
       },
       {
        "type": "null"
       }
      ],
      "title": "Dimensions"
     }
    },
    "additionalProperties": true,
    "type": "object",
    "required": [
     "model",
     "input"
    ],
    "title": "EmbeddingRequest",
    "description": "The body of POST /v1/embeddings."
   },
   "EmbeddingUsage": {
    "properties": {
     "prompt_tokens": {
      "type": "integer",
      "title": "Prompt Tokens"
     },
     "total_tokens": {
      "type": "integer",
      "title": "Total Tokens"
     }
    },
    "type": "object",
    "required": [
     "prompt_tokens",
     "total_tokens"
    ],
    "title": "EmbeddingUsage",
    "description": "Tokens read."
   },
   "ErrorBody": {
    "properties": {
     "error": {
      "$ref": "#/components/schemas/Problem"
     }
    },
    "type": "object",
    "required": [
     "error"
    ],
    "title": "ErrorBody",
    "description": "The body of every response that is no answer."
   },
   "Evidence": {
    "properties": {
     "kernel": {
      "anyOf": [
       {
        "type": "string",
        "enum": [
         "vocab",
         "strategy",
         "percept",
         "heart"
        ]
       },
       {
        "type": "null"
       }
      ],
      "title": "Kernel",
      "description": "The kernel that led"
     },
     "domain": {
      "anyOf": [
       {
        "type": "string"
       },
       {
        "type": "null"
       }
      ],
      "title": "Domain",
      "description": "The domain it spoke in"
     },
     "distances_rad": {
      "additionalProperties": {
       "type": "number"
      },
      "type": "object",
      "title": "Distances Rad",
      "description": "Fisher-Rao distance of the prompt to each domain, nearest first, 0 to pi"
     },
     "margin_rad": {
      "anyOf": [
       {
        "type": "number"
       },
       {
        "type": "null"
       }
      ],
      "title": "Margin Rad",
      "description": "Second distance minus first"
     },
     "abstained": {
      "type": "boolean",
      "title": "Abstained",
      "description": "The margin was too small to choose: the two nearest spoke together"
     },
     "phi": {
      "anyOf": [
       {
        "type": "number"
       },
       {
        "type": "null"
       }
      ],
      "title": "Phi",
      "description": "Integration of that kernel's state, 0 to 1"
     },
     "phi_p": {
      "anyOf": [
       {
        "type": "number"
       },
       {
        "type": "null"
       }
      ],
      "title": "Phi P",
      "description": "Probability of that integration without any coupling, above 0"
     },
     "constellation_phi": {
      "anyOf": [
       {
        "type": "number"
       },
       {
        "type": "null"
       }
      ],
      "title": "Constellation Phi",
      "description": "Integration of all four states together, 0 to 1"
     },
     "constellation_phi_p": {
      "anyOf": [
       {
        "type": "number"
       },
       {
        "type": "null"
       }
      ],
      "title": "Constellation Phi P"
     },
     "kappa": {
      "anyOf": [
       {
        "type": "number"
       },
       {
        "type": "null"
       }
      ],
      "title": "Kappa",
      "description": "Coupling: concentration of the state's heading at the end"
     },
     "phase": {
      "anyOf": [
       {
        "type": "string",
        "enum": [
         "FOAM",
         "TACKING",
         "CRYSTAL",
         "FRACTURE"
        ]
       },
       {
        "type": "null"
       }
      ],
      "title": "Phase"
     },
     "bundle": {
      "type": "integer",
      "title": "Bundle",
      "description": "Version of the bundle that answered"
     },
     "node": {
      "type": "string",
      "title": "Node"
     },
     "seconds": {
      "type": "number",
      "title": "Seconds"
     }
    },
    "type": "object",
    "required": [
     "kernel",
     "domain",
     "distances_rad",
     "margin_rad",
     "abstained",
     "phi",
     "phi_p",
     "constellation_phi",
     "constellation_phi_p",
     "kappa",
     "phase",
     "bundle",
     "node",
     "seconds"
    ],
    "title": "Evidence",
    "description": "How an answer came about; null where a quantity is not known."
   },
   "Feedback": {
    "properties": {
     "id": {
      "type": "string",
      "title": "Id"
     },
     "object": {
      "type": "string",
      "const": "interaction.feedback",
      "title": "Object"
     },
     "accept": {
      "anyOf": [
       {
        "type": "boolean"
       },
       {
        "type": "null"
       }
      ],
      "title": "Accept"
     }
    },
    "type": "object",
    "required": [
     "id",
     "object",
     "accept"
    ],
    "title": "Feedback",
    "description": "The verdict as it now stands."
   },
   "FeedbackRequest": {
    "properties": {
     "accept": {
      "anyOf": [
       {
        "type": "boolean"
       },
       {
        "type": "null"
       }
      ],
      "title": "Accept",
      "description": "true: worth learning; false: not, undo it; null: neither, as before"
     }
    },
    "additionalProperties": true,
    "type": "object",
    "required": [
     "accept"
    ],
    "title": "FeedbackRequest",
    "description": "The body of POST /v1/interactions/{id}/feedback."
   },
   "LeftPacket": {
    "properties": {
     "sequence": {
      "type": "integer",
      "title": "Sequence"
     },
     "status": {
      "type": "string",
      "title": "Status"
     },
     "ngrams": {
      "type": "integer",
      "title": "Ngrams"
     }
    },
    "type": "object",
    "required": [
     "sequence",
     "status",
     "ngrams"
    ],
    "title": "LeftPacket",
    "description": "A packet that has left with what it had of the text: n-grams that occur in it."
   },
   "Model": {
    "properties": {
     "id": {
      "type": "string",
      "title": "Id"
     },
     "object": {
      "type": "string",
      "const": "model",
      "title": "Object"
     },
     "created": {
      "type": "integer",
      "title": "Created"
     },
     "owned_by": {
      "type": "string",
      "title": "Owned By"
     }
    },
    "type": "object",
    "required": [
     "id",
     "object",
     "created",
     "owned_by"
    ],
    "title": "Model",
    "description": "created: when this edge began, seconds since 1970."
   },
   "ModelList": {
    "properties": {
     "object": {
      "type": "string",
      "const": "list",
      "title": "Object"
     },
     "data": {
      "items": {
       "$ref": "#/components/schemas/Model"
      },
      "type": "array",
      "title": "Data"
     }
    },
    "type": "object",
    "required": [
     "object",
     "data"
    ],
    "title": "ModelList",
    "description": "All of them."
   },
   "Problem": {
    "properties": {
     "message": {
      "type": "string",
      "title": "Message"
     },
     "type": {
      "type": "string",
      "title": "Type"
     },
     "param": {
      "anyOf": [
       {
        "type": "string"
       },
       {
        "type": "null"
       }
      ],
      "title": "Param"
     },
     "code": {
      "anyOf": [
       {
        "type": "string"
       },
       {
        "type": "null"
       }
      ],
      "title": "Code"
     }
    },
    "type": "object",
    "required": [
     "message",
     "type",
     "param",
     "code"
    ],
    "title": "Problem",
    "description": "What is wrong, of what kind, where in the request, and a stable code."
   },
   "Said": {
    "properties": {
     "role": {
      "type": "string",
      "const": "assistant",
      "title": "Role"
     },
     "content": {
      "type": "string",
      "title": "Content"
     },
     "refusal": {
      "type": "null",
      "title": "Refusal"
     },
     "annotations": {
      "items": {},
      "type": "array",
      "title": "Annotations"
     }
    },
    "type": "object",
    "required": [
     "role",
     "content",
     "refusal",
     "annotations"
    ],
    "title": "Said",
    "description": "The message that came out."
   },
   "StreamOptions": {
    "properties": {
     "include_usage": {
      "anyOf": [
       {
        "type": "boolean"
       },
       {
        "type": "null"
       }
      ],
      "title": "Include Usage"
     }
    },
    "additionalProperties": true,
    "type": "object",
    "title": "StreamOptions",
    "description": "include_usage: one more chunk before the end, with the tokens read and written."
   },
   "Usage": {
    "properties": {
     "prompt_tokens": {
      "type": "integer",
      "title": "Prompt Tokens"
     },
     "completion_tokens": {
      "type": "integer",
      "title": "Completion Tokens"
     },
     "total_tokens": {
      "type": "integer",
      "title": "Total Tokens"
     }
    },
    "type": "object",
    "required": [
     "prompt_tokens",
     "completion_tokens",
     "total_tokens"
    ],
    "title": "Usage",
    "description": "Tokens; a prompt with several choices is counted once."
   }
  }
 }
};
